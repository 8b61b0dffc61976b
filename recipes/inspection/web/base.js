// What all sections use: elements, sections, curves, and the position that is chosen.
const data = JSON.parse(document.getElementById("data").textContent);
const reading = data.reading;
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "style") made.style.cssText = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function section(id, title, about) {
  const made = element("section", { id }, element("h2", {}, title), element("p", {}, about));
  document.querySelector("main").append(made);
  document.querySelector("nav").append(element("a", { href: "#" + id }, title));
  return made;
}

// Spaces and line ends are shown, so that a token is never invisible.
const inline = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣");
const percent = (p) => (p >= 0.0995 ? (100 * p).toFixed(0) : p >= 0.001 ? (100 * p).toFixed(1) : p > 0 ? "<0.1" : "0") + "%";
const count = (n) => Math.round(n).toLocaleString("en");

function bytes(n) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (n < 1024) return n.toFixed(n < 10 ? 1 : 0) + " " + unit;
    n /= 1024;
  }
  return n.toFixed(1) + " TiB";
}

function slider(label, attributes, show, changed) {
  const said = element("output");
  const input = element("input", { type: "range", ...attributes });
  const update = () => { said.textContent = show(Number(input.value)); changed(); };
  input.addEventListener("input", update);
  said.textContent = show(Number(attributes.value));
  const made = element("label", {}, label, input, said);
  made.read = () => Number(input.value);
  made.put = (value) => { input.value = value; update(); };
  return made;
}

// Curves over one x: [{class, y}], with axes from the data; x may be logarithmic.
function curves(x, lines, { logarithmic = false, labelX = "", showX = count, showY = (v) => v.toFixed(2), from = null } = {}) {
  const [width, height, left, bottom, top] = [640, 250, 64, 34, 10];
  const all = lines.flatMap((line) => line.y);
  const [low, high] = [from ?? Math.min(...all), Math.max(...all)];
  const scale = (v) => (logarithmic ? Math.log(v) : v);
  const [first, last] = [scale(x[0]), scale(x[x.length - 1])];
  const px = (v) => left + ((scale(v) - first) / (last - first || 1)) * (width - left - 12);
  const py = (v) => top + (1 - (v - low) / (high - low || 1)) * (height - top - bottom);
  const figure = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": labelX });
  for (let i = 0; i <= 4; i++) {
    const y = low + ((high - low) * i) / 4;
    figure.append(drawn("path", { class: "axis", d: `M${left} ${py(y)}H${width - 12}` }),
      drawn("text", { class: "muted", x: left - 6, y: py(y) + 4, "text-anchor": "end" }, showY(y)));
    const at = logarithmic ? Math.exp(first + ((last - first) * i) / 4) : x[0] + ((x[x.length - 1] - x[0]) * i) / 4;
    figure.append(drawn("text", { class: "muted", x: px(at), y: height - bottom + 16, "text-anchor": i === 4 ? "end" : "middle" }, showX(at)));
  }
  figure.append(drawn("text", { class: "muted", x: width / 2, y: height - 3, "text-anchor": "middle" }, labelX));
  for (const line of lines) {
    figure.append(drawn("path", { class: line.class, d: "M" + x.map((v, i) => `${px(v).toFixed(1)} ${py(line.y[i]).toFixed(1)}`).join("L") }));
  }
  return figure;
}

// The stronger, the closer to 1.
const heat = (strength) => `background: color-mix(in srgb, var(--accent) ${(70 * strength).toFixed(1)}%, transparent)`;

// The chosen position: sections that show it say so here.
const watchers = [];
let chosen = 0;
function choose(position) {
  chosen = position;
  for (const watcher of watchers) watcher(position);
}

// After all sections are there: the second token is the first that something predicts.
addEventListener("load", () => { if (reading) choose(1); });

document.querySelector("h1").textContent = data.title;
document.getElementById("about").textContent =
  `${data.blueprint.class}, ${count(data.blueprint.parameters)} parameters` +
  (reading ? `, ${reading.tokens.length} tokens` + (reading.cut ? ` (${reading.cut} more were cut off)` : "") : "");
document.querySelector("footer").textContent = `rhapsode inspect; ${data.versions}`;
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.style.colorScheme ? root.style.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.style.colorScheme = dark ? "light" : "dark";
  choose(chosen); // canvases take their colours once
});
