// The moving charts: the last ten minutes of what was polled, redrawn when the theme or the width changes.
import { make } from "./common.js";

const SPAN_SECONDS = 600;

/** Return a custom property's colour in the current theme; a canvas knows no properties. */
function colour(name) {
  const probe = make("span", { hidden: true });
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const axis = (more) => ({
  stroke: () => colour("soft"),
  grid: { stroke: () => colour("line"), width: 1 },
  ticks: { show: false },
  font: "12px system-ui",
  ...more,
});

/** A chart of some lines, `[label, colour]` each. `add` takes a moment and a value a line; null leaves a gap. */
export function makeChart(place, lines) {
  const data = [[], ...lines.map(() => [])];
  const options = {
    width: place.clientWidth || 320,
    height: 180,
    cursor: { y: false, drag: { x: false, y: false } },
    legend: { live: false },
    scales: {
      x: { range: (_chart, _low, high) => [high - SPAN_SECONDS, high] },
      y: { range: (_chart, _low, high) => [0, Math.max(1, high * 1.15 || 1)] },
    },
    axes: [
      axis({ space: 70, values: (_chart, ticks) => ticks.map((tick) => {
        const at = new Date(tick * 1000);
        return `${String(at.getHours()).padStart(2, "0")}:${String(at.getMinutes()).padStart(2, "0")}`;
      }) }),
      axis({ size: 52 }),
    ],
    series: [{}, ...lines.map(([label, name]) => ({
      label, width: 2, stroke: () => colour(name), points: { show: false },
    }))],
  };
  let chart = null;
  const draw = () => {
    chart?.destroy();
    chart = new uPlot({ ...options, width: place.clientWidth || options.width }, data, place);
  };
  new ResizeObserver(() => {
    if (chart && place.clientWidth) chart.setSize({ width: place.clientWidth, height: options.height });
  }).observe(place);
  document.addEventListener("tci-theme", () => { if (chart) draw(); });
  return {
    add(moment, values) {
      data[0].push(moment);
      values.forEach((value, index) => data[index + 1].push(value));
      while (data[0][0] < moment - SPAN_SECONDS) for (const column of data) column.shift();
      if (chart) chart.setData(data);
      else draw();
    },
    clear() {
      for (const column of data) column.length = 0;
      chart?.setData(data);
    },
  };
}
