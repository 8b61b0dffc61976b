// The architecture: the wiring of a block, the modules with their tensors, and the KV cache.
const plan = data.blueprint;
const about = section("architecture", "Architecture", "From the bottom up as in the code: embedding, blocks, head. Open a part for its tensors.");
about.append(element("div", { class: "columns" }, partsOf(plan), element("div", {}, wiringOf(plan), settingsOf(plan))));

function partsOf(plan) {
  return element("div", { id: "parts" }, ...plan.parts.filter((part) => part.tensors.length).map((part) => {
    const times = part.repeat > 1 ? `${part.repeat} × ` : "";
    const shared = part.parameters === 0 && part.tensors.every(([, , tied]) => tied);
    const each = shared ? "tied" : part.repeat > 1 ? `${count(part.parameters)} each, ${count(part.parameters * part.repeat)}` : count(part.parameters);
    const rows = part.tensors.map(([path, shape, tied]) => element("tr", {}, element("td", { class: "text" }, path || part.name),
      element("td", { class: "text" }, `(${shape.join(", ")})`), element("td", {}, tied ? "tied" : count(shape.reduce((a, b) => a * b, 1)))));
    return element("details", { class: "part", ...(part.repeat > 1 && { open: "" }) }, element("summary", {}, element("b", {}, times + part.name), element("span", {}, part.kind), element("span", {}, each)),
      element("table", {}, ...rows));
  }));
}

// A row for each step, in the order of the longest way to it; the stream of x runs down the left.
function wiringOf(plan) {
  if (!plan.wiring) return "";
  const [width, rowHeight] = [600, 58];
  const depth = [];
  const column = [];
  plan.wiring.forEach((step, i) => {
    depth[i] = Math.max(-1, ...step.inputs.map((input) => depth[input])) + 1;
    const isSum = step.kind === "add" && step.inputs.some((input) => column[input] === 0);
    column[i] = step.kind === "stream" || isSum ? 0 : 1;
    if (plan.wiring.some((other, j) => j < i && depth[j] === depth[i] && column[j] === column[i])) column[i] += 1;
  });
  // A norm of the stream itself (post-norm) stands in the stream.
  plan.wiring.forEach((step, i) => {
    const readers = (j) => plan.wiring.filter((other) => other.inputs.includes(j)).length;
    if (step.kind === "norm" && column[step.inputs[0]] === 0 && readers(step.inputs[0]) === 1) column[i] = 0;
    if (step.kind === "add" && step.inputs.some((input) => column[input] === 0)) column[i] = 0;
  });
  const [x, y] = [(i) => [98, 300, 500][column[i]], (i) => depth[i] * rowHeight + 24];
  const figure = drawn("svg", { id: "wiring", viewBox: `0 0 ${width} ${(Math.max(...depth) + 1) * rowHeight}`, role: "img", "aria-label": "the wiring of one block" });
  plan.wiring.forEach((step, i) => step.inputs.forEach((from) => {
    const [x1, y1, x2, y2] = [x(from), y(from), x(i), y(i)];
    figure.append(drawn("path", { class: "wire", d: x1 === x2 ? `M${x1} ${y1}V${y2}` : `M${x1} ${y1}C${x1} ${(y1 + y2) / 2} ${x2} ${(y1 + y2) / 2} ${x2} ${y2}` }));
  }));
  plan.wiring.forEach((step, i) => {
    const half = step.kind === "add" ? 12 : Math.max(step.label.length * 3.3, step.detail.length * 2.8) + 8;
    const tall = step.detail ? 19 : 12;
    figure.append(drawn("rect", { class: "box", x: x(i) - half, y: y(i) - tall, width: 2 * half, height: 2 * tall, rx: step.kind === "add" ? 12 : 5 }),
      drawn("text", { x: x(i), y: y(i) + (step.detail ? -2 : 4), "text-anchor": "middle" }, step.label),
      drawn("text", { class: "muted small", x: x(i), y: y(i) + 12, "text-anchor": "middle" }, step.detail));
  });
  return element("div", {}, element("p", {}, "One block, drawn by running its own wiring on symbols: (B, T, D) runs down the left."), figure);
}

function settingsOf(plan) {
  return element("table", {}, ...Object.entries(plan.settings).map(([key, value]) =>
    element("tr", {}, element("td", { class: "text" }, key), element("td", { class: "text" }, value))));
}

if (plan.cache) {
  const place = section("cache", "KV cache",
    `Every position adds ${bytes(plan.cache.per_token)} at 2 bytes a number; ${bytes(plan.cache.bytes[plan.cache.bytes.length - 1])} at the full context, for one sequence.`);
  place.append(curves(plan.cache.lengths, [{ class: "one", y: plan.cache.bytes }], { labelX: "positions", showY: bytes, from: 0 }));
}
