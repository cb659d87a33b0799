// Light or dark: what the system says, until the visitor says otherwise. Loaded in the head, so that nothing flashes.
"use strict";
{
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = localStorage.getItem("tci-theme");
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  window.tciTheme = () => root.dataset.theme || (system.matches ? "dark" : "light");

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.querySelector("#theme");
    const show = () => {
      button.textContent = tciTheme() === "dark" ? "Light" : "Dark";
      button.setAttribute("aria-label", `Switch to the ${tciTheme() === "dark" ? "light" : "dark"} theme`);
      document.dispatchEvent(new Event("tci-theme"));
    };
    button.addEventListener("click", () => {
      root.dataset.theme = tciTheme() === "dark" ? "light" : "dark";
      localStorage.setItem("tci-theme", root.dataset.theme);
      show();
    });
    system.addEventListener("change", show);
    show();
  });
}
