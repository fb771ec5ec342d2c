"use strict";
const charts = JSON.parse(document.getElementById("charts").textContent);
const NARROW = 560;
const still = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// The library is packed, so that the page stays small; it brings no module of its own.
async function load() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(plain).text();
  document.head.append(script);
}

// Colours of the light page, as they are on this one.
function adapted(value) {
  if (Array.isArray(value)) return value.map(adapted);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, adapted(inner)]));
  }
  if (value === "--paper") return style("--paper");
  if (value === "#000000") return style("--ink");
  if (!dark.matches || typeof value !== "string" || !/^#[0-9a-f]{6}$/i.test(value)) return value;
  const part = (i) => parseInt(value.slice(i, i + 2), 16);
  const lighter = [1, 3, 5].map((i) => Math.round(part(i) + 0.38 * (255 - part(i))));
  return `rgb(${lighter.join(",")})`;
}

// Maps are packed as 16-bit numbers; the least of them is none.
function unpacked(trace) {
  if (!trace.packed) return trace;
  const bytes = Uint8Array.from(atob(trace.packed), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const [rows, columns] = trace.shape;
  const z = Array.from({ length: rows }, (_, i) => Array.from({ length: columns }, (_, j) => {
    const n = view.getInt16(2 * (i * columns + j), true);
    return n === -32768 ? null : n * trace.scale;
  }));
  const { packed, scale, shape, named, ...rest } = trace;
  return { ...rest, z };
}

function dressed(plain, place) {
  const layout = adapted(plain);
  const narrow = place.clientWidth < NARROW;
  const grid = { gridcolor: style("--rule"), zerolinecolor: style("--muted"), linecolor: style("--rule") };
  const found = {
    ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: "zoom",
    font: { color: style("--ink"), family: getComputedStyle(document.body).fontFamily, size: 12.5 },
    hoverlabel: { bgcolor: style("--raised"), bordercolor: style("--rule"), font: { color: style("--ink") } },
    margin: { ...layout.margin },
  };
  for (const axis of ["xaxis", "yaxis"]) found[axis] = { ...grid, zeroline: false, automargin: true, ...layout[axis] };
  const labels = (layout.annotations || []).filter((a) => a.name === "end");
  if (labels.length && narrow) {
    found.annotations = layout.annotations.filter((a) => a.name !== "end");
    found.margin.r = 12;
    found.named = true;
  }
  found.named ||= layout.showlegend;
  found.showlegend = false;
  return found;
}

const OPTIONS = { displayModeBar: false, responsive: true };
const chosen = (id) => [...document.querySelectorAll(`select[data-chart="${id}"]`)].map((s) => s.value).join("|");
const figures = (id) => {
  const known = charts[id].figures;
  return typeof known === "string" ? charts[known].figures : known;
};

function draw(id) {
  const place = document.getElementById(id);
  if (charts[id].kind === "motion") return drawMotion(id);
  const figure = figures(id)[chosen(id)];
  if (!figure) {
    Plotly.purge(place);
    place.textContent = "This model has none of that.";
    return;
  }
  if (!place.querySelector(".plot-container")) place.textContent = "";
  const data = adapted(figure.data.map(unpacked));
  for (const [i, trace] of data.entries()) {
    if (figure.data[i].named) nameCells(trace, figure.layout);
  }
  const { named, ...layout } = dressed(figure.layout, place);
  for (const trace of data) {
    const name = trace.legendgroup || trace.name;
    hidden[id] ||= {};
    hidden[id][name] ??= trace.visible === "legendonly";
    trace.visible = !hidden[id][name];
  }
  Plotly.react(place, data, layout, OPTIONS);
  legend(id, named ? data.filter((trace) => trace.showlegend !== false) : []);
}

// Which lines are shown is chosen by boxes, which need no mouse; the choice outlasts a redrawing.
const hidden = {};
function legend(id, traces) {
  const place = document.getElementById(id);
  let list = place.parentElement.querySelector(".legend");
  if (list) list.remove();
  if (traces.length < 2) return;
  list = document.createElement("ul");
  list.className = "legend";
  list.setAttribute("aria-label", "Lines that are shown");
  for (const { name, line } of traces) {
    const label = document.createElement("label"), box = document.createElement("input");
    const mark = document.createElement("span"), item = document.createElement("li");
    box.type = "checkbox";
    box.checked = !hidden[id][name];
    box.addEventListener("change", () => {
      hidden[id][name] = !box.checked;
      const same = [...place.data.keys()].filter((i) => (place.data[i].legendgroup || place.data[i].name) === name);
      Plotly.restyle(place, { visible: box.checked }, same);
    });
    mark.className = "mark";
    mark.style.borderTop = `3px ${BORDERS[line.dash] || "dashed"} ${line.color}`;
    label.append(box, mark, name);
    item.append(label);
    list.append(item);
  }
  place.after(list);
}
const BORDERS = { solid: "solid", dot: "dotted" };

// A cell says which tokens it is of, not which numbers they have.
function nameCells(trace, layout) {
  const columns = layout.xaxis.ticktext, rows = layout.yaxis.ticktext;
  trace.text = rows.map((row) => columns.map((column) => `${row} takes of ${column}`));
  trace.hovertemplate = "%{text}: %{z:.3f}<extra></extra>";
}

// Labels that do not cover one another where the tokens end; the others are read by pointing.
function apart(path, width) {
  const pixels = width / (2 * path.reach), kept = [];
  path.x.at(-1).forEach(([x, y], i) => {
    const free = kept.every((j) => {
      const [a, b] = path.x.at(-1)[j];
      const wide = 3.4 * (path.labels[i].length + path.labels[j].length);
      return Math.abs(x - a) * pixels > wide || Math.abs(y - b) * pixels > 13;
    });
    if (free) kept.push(i);
  });
  return kept;
}

// Tokens on their way: a frame between two layers lies between their states.
const depth = {};
function drawMotion(id) {
  const place = document.getElementById(id);
  const path = figures(id)[chosen(id)];
  path.seen ||= apart(path, place.clientWidth);
  const first = id.replace(/-2$/, "");
  const at = Math.min(depth[first] ?? Infinity, path.x.length - 1);
  const low = Math.floor(at), high = Math.min(low + 1, path.x.length - 1), share = at - low;
  const mix = (values) => values[low].map((v, i) => v.map((c, k) => c + share * (values[high][i][k] - c)));
  const x = mix(path.x), p = mix(path.p);
  const ink = style("--ink"), muted = style("--muted");
  const warm = adapted("#C24400"), cool = adapted("#0066A8");
  const trail = { type: "scatter", mode: "lines", x: [], y: [], hoverinfo: "skip", line: { color: muted, width: 0.6 }, opacity: 0.5 };
  x.forEach((now, i) => {
    for (let n = 0; n <= low; n++) { trail.x.push(path.x[n][i][0]); trail.y.push(path.x[n][i][1]); }
    trail.x.push(now[0], null); trail.y.push(now[1], null);
  });
  const arrows = {
    type: "scatter", mode: "lines+markers", x: [], y: [], hoverinfo: "skip",
    line: { color: warm, width: 1.6 },
    marker: { symbol: "arrow", angleref: "previous", color: warm, size: [] },
  };
  if (path.moves) x.forEach((now, i) => {
    arrows.x.push(now[0], now[0] + p[i][0], null);
    arrows.y.push(now[1], now[1] + p[i][1], null);
    arrows.marker.size.push(0, Math.hypot(...p[i]) > 0.01 * path.reach ? 8 : 0, 0);
  });
  const dots = {
    type: "scatter", mode: "markers+text", x: x.map((v) => v[0]), y: x.map((v) => v[1]),
    text: path.labels.map((label, i) => (path.seen.includes(i) ? label : "")), hovertext: path.labels,
    textposition: "top center", textfont: { size: 10.5, color: ink }, marker: { size: 6, color: cool },
    hovertemplate: "%{hovertext}<extra></extra>",
  };
  const percent = path.shares.map((s) => `${Math.round(100 * s)} % of the variance`);
  const range = [-path.reach, path.reach];
  const layout = {
    height: 460, margin: { l: 44, r: 8, t: 8, b: 44 }, showlegend: false, hovermode: "closest",
    xaxis: { title: { text: percent[0] }, range }, yaxis: { title: { text: percent[1] }, range },
  };
  Plotly.react(place, [trail, arrows, dots], dressed(layout, place), OPTIONS);
}

function player(button) {
  const id = button.dataset.play;
  const slider = document.querySelector(`[data-scrub="${id}"]`);
  const output = document.querySelector(`[data-depth="${id}"]`);
  const both = [id, `${id}-2`].filter((name) => charts[name]);
  const layers = () => Math.max(...both.map((name) => figures(name)[chosen(name)].x.length - 1));
  let playing = 0;
  const show = (at) => {
    slider.max = layers();
    depth[id] = Math.min(at, layers());
    slider.value = depth[id];
    output.textContent = `${depth[id].toFixed(1)} of ${layers()}`;
    both.forEach(drawMotion);
  };
  const stop = () => { cancelAnimationFrame(playing); playing = 0; button.textContent = "Play"; };
  button.addEventListener("click", () => {
    if (playing) return stop();
    const begin = depth[id] >= layers() ? 0 : depth[id];
    const start = performance.now();
    const pace = still.matches ? 1 : 20;  // whole layers, for those who want little motion
    button.textContent = "Stop";
    const step = (now) => {
      const at = Math.floor((begin + (now - start) / 1400) * pace) / pace;
      show(at);
      if (at >= layers()) stop(); else playing = requestAnimationFrame(step);
    };
    playing = requestAnimationFrame(step);
  });
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  document.querySelectorAll(both.map((name) => `select[data-chart="${name}"]`).join(","))
    .forEach((select) => select.addEventListener("change", () => show(depth[id])));
  show(layers());
}

load().then(() => {
  const every = () => Object.keys(charts).forEach(draw);
  every();
  document.querySelectorAll("select[data-chart]").forEach((select) => {
    select.addEventListener("change", () => draw(select.dataset.chart));
  });
  document.querySelectorAll("[data-play]").forEach(player);
  dark.addEventListener("change", every);
  let width = innerWidth, waiting = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(every, 150);
  });
  document.documentElement.dataset.ready = "true";
});
