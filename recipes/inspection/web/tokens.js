// Tokens with their surprise, the candidates after the chosen one, and the logit lens.
if (reading) {
  const most = Math.max(1, ...reading.tokens.map((token) => token.bits ?? 0));
  const total = reading.tokens.reduce((sum, token) => sum + (token.bits ?? 0), 0);
  const tokens = section("tokens", "Tokens",
    `The darker, the more surprising: ${total.toFixed(1)} bits together, ${(total / (reading.tokens.length - 1)).toFixed(2)} a token. ` +
    "Choose one, here or with the arrow keys, to see what was expected after it.");
  const line = element("div", { class: "tokens" });
  const buttons = reading.tokens.map((token, i) => element("button", {
    type: "button", class: "token", "data-position": i, onclick: () => choose(i),
    title: `${i}: id ${token.id}` + (i ? `, ${token.bits.toFixed(2)} bits, rank ${token.rank}` : ", the first: nothing predicts it"),
    style: heat((token.bits ?? 0) / most),
  }, inline(token.text)));
  buttons.forEach((button, i) => line.append(button, ...(reading.tokens[i].text.includes("\n") ? [element("br")] : [])));
  line.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    choose(Math.min(buttons.length - 1, Math.max(0, chosen + step)));
    buttons[chosen].focus();
    event.preventDefault();
  });
  const head = element("p", { id: "after" });
  const list = element("div", { id: "candidates" });
  tokens.append(line, head, list);
  watchers.push((position) => {
    buttons.forEach((button, i) => button.classList.toggle("chosen", i === position));
    const { text, next, entropy } = reading.tokens[position];
    const came = reading.tokens[position + 1];
    head.textContent = `After position ${position}, “${inline(text)}”: entropy ${entropy.toFixed(2)} bits` +
      (came ? `; then came “${inline(came.text)}”, ${came.bits.toFixed(2)} bits, rank ${came.rank}` : "; the text ends here");
    list.replaceChildren(...next.map(([text, p]) => bar(text, p, next[0][1], "")));
  });

  if (reading.lens) {
    const lens = section("lens", "Logit lens",
      "What the model would say after each layer, if its head read there: the likeliest next token, the darker the surer. " +
      "Row 0 is the embedding, the last row the model's answer. Point at a cell for the probability of the token that really came.");
    const table = element("table", { class: "lens" });
    reading.lens.layers.forEach((cells, layer) => table.prepend(element("tr", {}, element("th", {}, String(layer)),
      ...cells.map(([text, p, actual], t) => element("td", {
        class: "text", style: heat(p), onclick: () => choose(t),
        title: `layer ${layer}, position ${t}: “${inline(text)}” ${percent(p)}` + (actual === null ? "" : `; the true next token ${percent(actual)}`),
      }, inline(text))))));
    table.append(element("tr", {}, element("th", {}, "text"), ...reading.tokens.map((token) => element("th", { class: "text mono" }, inline(token.text)))));
    lens.append(element("div", { class: "scroll" }, table));
  }
}

function bar(text, p, most, kind) {
  return element("div", { class: "bar " + kind }, element("span", { class: "mono text" }, inline(text)),
    element("i", { style: `width: ${Math.min(100, (100 * p) / (most || 1))}%` }), element("span", {}, percent(p)));
}
