// Attention of every layer and head: small maps to choose from, and the chosen one large.
if (reading && reading.attention) {
  const { layers, heads, size } = reading.attention;
  const packed = Uint8Array.from(atob(reading.attention.data), (character) => character.charCodeAt(0));
  const triangle = (size * (size + 1)) / 2;
  const weight = (layer, head, row, column) =>
    column > row ? 0 : packed[(layer * heads + head) * triangle + (row * (row + 1)) / 2 + column] / 255;
  const place = section("attention", "Attention",
    "Rows are the positions that look, columns those that are looked at; darker is more. Point at the map to read it.");
  const choice = element("select", { id: "layer" });
  for (let layer = 0; layer < layers; layer++) choice.append(element("option", { value: layer }, `layer ${layer}`));
  const small = element("div", { class: "heads" });
  const large = element("canvas", { id: "map" });
  const said = element("p", { id: "looking" });
  const looked = element("div");
  place.append(element("label", {}, "layer", choice), small, element("div", { class: "columns" }, element("div", {}, large, said), looked));
  let [layer, head] = [0, 0];

  function paint(canvas, head, cell) {
    canvas.width = canvas.height = size * cell;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    const colour = getComputedStyle(document.querySelector("main")).getPropertyValue("color");
    context.fillStyle = colour;
    for (let row = 0; row < size; row++) {
      for (let column = 0; column <= row; column++) {
        const w = weight(layer, head, row, column);
        if (!w) continue;
        context.globalAlpha = Math.sqrt(w); // small weights stay visible
        context.fillRect(column * cell, row * cell, cell, cell);
      }
    }
  }
  const cell = Math.max(2, Math.floor(520 / size));
  function show() {
    small.replaceChildren(...Array.from({ length: heads }, (_, i) => {
      const canvas = element("canvas", { style: "width: 72px; height: 72px" });
      paint(canvas, i, 1);
      return element("button", { type: "button", class: i === head ? "chosen" : "", title: `head ${i}`, onclick: () => { head = i; show(); } }, canvas);
    }));
    paint(large, head, cell);
    rows(chosen);
  }
  function rows(position) {
    const found = Array.from({ length: position + 1 }, (_, column) => [column, weight(layer, head, position, column)]);
    found.sort((a, b) => b[1] - a[1]);
    said.textContent = `Layer ${layer}, head ${head}: position ${position}, “${inline(reading.tokens[position].text)}”, looks at`;
    looked.replaceChildren(...found.slice(0, 14).filter(([, w]) => w > 0).map(([column, w]) => bar(`${column} ${reading.tokens[column].text}`, w, found[0][1], "")));
  }
  large.addEventListener("click", (event) => {
    const row = Math.floor((event.offsetY / large.clientHeight) * size);
    if (row >= 0 && row < size) choose(row);
  });
  large.addEventListener("mousemove", (event) => {
    const [column, row] = [event.offsetX / large.clientWidth, event.offsetY / large.clientHeight].map((v) => Math.floor(v * size));
    if (row >= 0 && row < size && column >= 0 && column < size) {
      large.title = `“${inline(reading.tokens[row].text)}” → “${inline(reading.tokens[column].text)}”: ${percent(weight(layer, head, row, column))}`;
    }
  });
  choice.addEventListener("change", () => { layer = Number(choice.value); show(); });
  watchers.push(show);
}
