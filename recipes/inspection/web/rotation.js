// RoPE: the angle of every pair between two positions, and how the dot product falls with the distance.
if (data.rotation) {
  const { theta, longest, distances, equal, bound } = data.rotation;
  const place = section("rotation", "Rotary positions",
    `Each of the ${theta.length} pairs of a head turns by its own angle per position, from ${theta[0].toPrecision(3)} down to ` +
    `${theta[theta.length - 1].toPrecision(3)} rad. Only the distance of two positions counts.`);
  const dials = drawn("svg", { id: "dials" });
  const said = element("p", { id: "angle" });
  const first = slider("position m", { id: "position-m", min: 0, max: longest - 1, step: 1, value: Math.min(longest - 1, 16) }, count, () => draw());
  const second = slider("position n", { id: "position-n", min: 0, max: longest - 1, step: 1, value: 0 }, count, () => draw());
  function draw() {
    const distance = first.read() - second.read();
    const shown = Math.min(theta.length, 32);
    const picked = Array.from({ length: shown }, (_, i) => Math.round((i * (theta.length - 1)) / Math.max(1, shown - 1)));
    const columns = 16, step = 42;
    dials.setAttribute("viewBox", `0 0 ${columns * step} ${Math.ceil(shown / columns) * (step + 16)}`);
    dials.replaceChildren(...picked.map((pair, i) => {
      const [cx, cy, r] = [(i % columns) * step + 21, Math.floor(i / columns) * (step + 16) + 21, 16];
      const angle = distance * theta[pair];
      return drawn("g", {}, drawn("circle", { class: "axis", cx, cy, r }), drawn("path", { class: "axis", d: `M${cx} ${cy}h${r}` }),
        drawn("path", { class: "hand", d: `M${cx} ${cy}L${cx + r * Math.cos(angle)} ${cy - r * Math.sin(angle)}` }),
        drawn("text", { class: "muted", x: cx, y: cy + 30, "text-anchor": "middle" }, String(pair)),
        drawn("title", {}, `pair ${pair}: ${angle.toFixed(3)} rad, a full turn every ${count((2 * Math.PI) / theta[pair])} positions`));
    }));
    const mean = theta.reduce((sum, rate) => sum + Math.cos(distance * rate), 0) / theta.length;
    said.textContent = `Distance ${count(distance)}: two equal vectors have ${mean.toFixed(3)} of their dot product at distance 0.`;
  }
  draw();
  place.append(element("div", {}, first, second), dials, said,
    element("p", {}, "Over the distance: the dot product of equal vectors (blue), and the bound of Su et al. 2021 (orange), both as shares of distance 0."),
    curves(distances, [{ class: "one", y: equal }, { class: "two", y: bound }], { logarithmic: true, labelX: "distance in positions" }));
}
