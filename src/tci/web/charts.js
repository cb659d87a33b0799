// The moving charts: the last ten minutes of what was polled, redrawn when the theme or the width changes.
import { make, whole } from "./common.js";

const SPAN_SECONDS = 600;
const LEAST_SECONDS = 60;

const two = (number) => String(number).padStart(2, "0");

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
    height: 190,
    padding: [10, 8, 0, 0],
    cursor: { y: false, drag: { x: false, y: false } },
    legend: { markers: { width: 0, fill: (chart, index) => chart.series[index].stroke(chart, index) } },
    scales: {
      // It fills from the left at first, and then it moves.
      x: { range: (_chart, low, high) => [Math.max(high - SPAN_SECONDS, Math.min(low, high - LEAST_SECONDS)), high] },
      y: { range: (_chart, _low, high) => [0, Math.max(1, high * 1.15 || 1)] },
    },
    axes: [
      axis({ space: 70, size: 28, values: (_chart, ticks) => ticks.map((tick) => {
        const at = new Date(tick * 1000);
        return `${two(at.getHours())}:${two(at.getMinutes())}${tick % 60 ? `:${two(at.getSeconds())}` : ""}`;
      }) }),
      axis({ size: 46, space: 40 }),
    ],
    series: [{}, ...lines.map(([label, name]) => ({
      label,
      width: 2,
      stroke: () => colour(name),
      fill: () => colour(name).replace(/^rgb\((.*)\)$/, "rgba($1, 0.08)"),
      points: { show: false },
      value: (_chart, value) => whole(value == null ? null : Math.round(value)),
    }))],
  };
  let chart = null;
  const showNewest = () => { if (chart.cursor.idx == null && data[0].length) chart.setLegend({ idx: data[0].length - 1 }); };
  const draw = () => {
    chart?.destroy();
    chart = new uPlot({ ...options, width: place.clientWidth || options.width }, data, place);
    showNewest();
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
      if (!chart) return draw();
      chart.setData(data);
      showNewest();
    },
    clear() {
      for (const column of data) column.length = 0;
      chart?.setData(data);
    },
  };
}
