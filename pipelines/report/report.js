// The page is complete without this script: it draws the charts and pages through the samples.
"use strict";

const PAGE_ROWS = 10;

async function loadPlotly() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (byte) => byte.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const axis = { gridcolor: style.getPropertyValue("--line"), linecolor: style.getPropertyValue("--line") };
  return { ink: style.getPropertyValue("--soft"), surface: style.getPropertyValue("--surface"), axis };
}

function themed(layout) {
  const { ink, surface, axis } = colours();
  const family = getComputedStyle(document.body).fontFamily;
  return {
    ...layout,
    font: { family, size: 12.5, color: ink },
    xaxis: { ...layout.xaxis, ...axis },
    yaxis: { ...layout.yaxis, ...axis },
    hoverlabel: { ...layout.hoverlabel, bgcolor: surface, bordercolor: axis.gridcolor, font: { family, color: ink } },
  };
}

async function drawCharts() {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll("[data-figure]")];
  if (!plots.length) return;
  await loadPlotly();
  const draw = () => {
    for (const plot of plots) {
      const { data, layout } = figures[plot.dataset.figure];
      Plotly.react(plot, data, themed(layout), { responsive: true, displayModeBar: false });
    }
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  for (const plot of plots) plot.closest("figure").querySelector("details").open = false;
}

// Whether an aligner had a turn on the row and was refused for the reason, in one turn; "*" is any reason.
function hasTurn(article, member, reason) {
  if (!member && !reason) return true;
  const turns = [...article.querySelectorAll("[data-member]")].map((turn) => turn.dataset);
  return turns.some(
    (turn) => (!member || turn.member === member) && (!reason || (reason === "*" ? "reason" in turn : turn.reason === reason)),
  );
}

function browseSamples() {
  const tools = document.getElementById("tools");
  if (!tools) return;
  const list = document.getElementById("list");
  const articles = [...list.children];
  const texts = new Map(articles.map((article) => [article, article.textContent.toLowerCase()]));
  const orders = {
    mixed: (a, b) => a.dataset.place - b.dataset.place,
    gain: (a, b) => b.dataset.gain - a.dataset.gain,
    loss: (a, b) => a.dataset.gain - b.dataset.gain,
  };
  const [previous, next, place] = ["previous", "next", "place"].map((id) => document.getElementById(id));
  let found = articles;
  let first = 0;

  function show(from) {
    first = Math.max(0, Math.min(from, found.length - 1));
    const shown = found.slice(first, first + PAGE_ROWS);
    list.replaceChildren(...shown);
    place.textContent = shown.length ? `${first + 1}–${first + shown.length} of ${found.length}` : "no sample fits";
    previous.disabled = first === 0;
    next.disabled = first + PAGE_ROWS >= found.length;
  }

  function select() {
    const { alignment, decision, member, reason, search, order } = tools.elements;
    const words = search.value.toLowerCase().trim();
    found = articles
      .filter((article) => !alignment?.value || article.dataset.alignment === alignment.value)
      .filter((article) => !decision.value || article.dataset.decision === decision.value)
      .filter((article) => hasTurn(article, member?.value, reason?.value) && texts.get(article).includes(words))
      .sort(orders[order.value]);
    show(0);
  }

  function turn(rows) {
    show(first + rows);
    tools.scrollIntoView({ block: "start" });
  }

  tools.addEventListener("input", select);
  tools.addEventListener("submit", (event) => event.preventDefault());
  previous.addEventListener("click", () => turn(-PAGE_ROWS));
  next.addEventListener("click", () => turn(PAGE_ROWS));
  select();
}

browseSamples();
drawCharts().catch((error) => {
  // An old browser, for one: the tables, which are open still, say the same.
  for (const plot of document.querySelectorAll(".plot")) plot.remove();
  console.error(error);
});
