// Three charts of the last hour. The table beneath them shows the same numbers without this file.
(() => {
  "use strict";
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  if (figures.length === 0 || !window.uPlot) return;
  const probe = document.createElement("i");
  document.body.append(probe);
  // Resolves light-dark() to a colour that a canvas takes.
  const color = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const duration = (seconds) => {
    if (seconds == null) return "–";
    if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
    if (seconds < 120) return `${+seconds.toFixed(1)} s`;
    return `${Math.round(seconds / 60)} min`;
  };
  const count = (value) => (value == null ? "–" : value.toLocaleString("en"));
  const charts = {
    throughput: {
      data: (d) => [d.at, d.received, d.processed, d.dead],
      lines: [["received", "--info"], ["processed", "--good"], ["dead", "--bad"]],
      text: count,
    },
    speed: {
      data: (d) => [d.at, d.median_s, d.p95_s, d.p99_s],
      lines: [["median", "--good"], ["95 %", "--warn"], ["99 %", "--bad"]],
      text: duration,
    },
    age: {
      data: (d) => [d.age_at, d.age_s],
      lines: [["oldest", "--warn"]],
      text: duration,
    },
  };
  const options = (chart, width) => ({
    width,
    height: 170,
    legend: { live: true },
    cursor: { points: { size: 6 }, drag: { x: false, y: false } },
    scales: { x: { time: true }, y: { range: (_, __, most) => [0, Math.max(most * 1.1, chart.text === count ? 5 : 0.05)] } },
    axes: [
      { stroke: color("--soft"), grid: { show: false }, ticks: { show: false }, size: 26, space: 60, values: "{HH}:{mm}" },
      { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, size: 52, values: (_, values) => values.map(chart.text) },
    ],
    series: [
      { label: "at", value: "{HH}:{mm}" },
      ...chart.lines.map(([label, name], nth) => ({
        label,
        stroke: color(name),
        fill: nth === 0 && chart !== charts.speed ? color(name).replace("rgb(", "rgba(").replace(")", ", .1)") : undefined,
        width: 1.5,
        spanGaps: false,
        // A lonely minute is no line.
        points: { show: chart === charts.speed, size: 4, fill: color(name) },
        value: (_, value) => chart.text(value),
      })),
    ],
  });

  let data = null;
  const drawn = new Map();
  const draw = (figure) => {
    const chart = charts[figure.dataset.chart];
    const plot = figure.querySelector(".plot");
    drawn.get(figure)?.destroy();
    drawn.set(figure, new uPlot(options(chart, plot.clientWidth || figure.clientWidth - 32), chart.data(data), plot));
  };
  let asking = false;
  const refresh = async () => {
    if (asking || document.hidden) return;
    asking = true;
    try {
      const answer = await fetch("/overview/charts.json");
      if (!answer.ok) return;
      data = await answer.json();
      for (const figure of figures) {
        const chart = drawn.get(figure);
        if (chart) chart.setData(charts[figure.dataset.chart].data(data));
        else draw(figure);
      }
    } catch {
      // The next round tries again.
    } finally {
      asking = false;
    }
  };
  refresh();
  let last = Date.now();
  document.querySelector("#live")?.addEventListener("htmx:sseMessage", () => {
    if (Date.now() - last < 9000) return;
    last = Date.now();
    refresh();
  });
  const widths = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const figure = target.closest("figure");
      drawn.get(figure)?.setSize({ width: target.clientWidth, height: 170 });
    }
  });
  for (const figure of figures) widths.observe(figure.querySelector(".plot"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (data) figures.forEach(draw); });
})();
