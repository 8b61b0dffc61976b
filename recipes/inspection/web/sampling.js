// What temperature, top-k, top-p and min-p do to the distribution after the chosen position, in the order of generate().
if (reading) {
  const place = section("sampling", "Sampling",
    "The distribution after the chosen token, as the settings leave it; grey is left out. The likeliest " +
    `${reading.sampling[0].kept.length} are exact, the rest of the vocabulary is summed up in bins.`);
  const settings = {
    temperature: slider("temperature", { id: "temperature", min: 0.1, max: 3, step: 0.05, value: 1 }, (v) => v.toFixed(2), () => draw()),
    k: slider("top-k", { id: "top-k", min: 0, max: reading.sampling[0].kept.length, step: 1, value: 0 }, (v) => (v ? String(v) : "off"), () => draw()),
    p: slider("top-p", { id: "top-p", min: 0.01, max: 1, step: 0.01, value: 1 }, (v) => (v < 1 ? v.toFixed(2) : "off"), () => draw()),
    least: slider("min-p", { id: "min-p", min: 0, max: 0.5, step: 0.005, value: 0 }, (v) => (v ? v.toFixed(3) : "off"), () => draw()),
  };
  const said = element("p", { id: "sampled" });
  const list = element("div", { id: "distribution" });
  place.append(element("div", {}, ...Object.values(settings)), said, list);

  function draw() {
    const { kept, rest } = reading.sampling[chosen];
    const found = sampled(kept, rest, settings.temperature.read(), settings.k.read(), settings.p.read(), settings.least.read());
    const alone = found.tokens.filter((token) => token.stays).length;
    said.textContent = `${count(alone + found.restCount)} tokens can be drawn, entropy ${found.entropy.toFixed(2)} bits`;
    const most = Math.max(...found.tokens.map((token) => token.p), found.tokens[0].before);
    list.replaceChildren(...found.tokens.slice(0, 24).map((token) => bar(token.text, token.stays ? token.p : token.before, most, token.stays ? "" : "out")));
    if (found.tokens.length > 24) {
      const more = found.tokens.slice(24).filter((token) => token.stays).reduce((sum, token) => sum + token.p, 0);
      list.append(bar("all others", more + found.rest, most, ""));
    }
  }
  watchers.push(draw);
}

// Tempered softmax; then top-k, top-p and min-p each leave out what is below their bound, and the rest is scaled to 1.
function sampled(kept, rest, temperature, k, p, least) {
  const highest = kept[0][1];
  const weight = (logit) => Math.exp((logit - highest) / temperature);
  const weights = kept.map(([, logit]) => weight(logit));
  const bins = rest.map(([logit, n]) => ({ n, w: weight(logit) }));
  const all = weights.reduce((a, b) => a + b, 0) + bins.reduce((sum, bin) => sum + bin.n * bin.w, 0);
  let mass = k ? weights.slice(0, k).reduce((a, b) => a + b, 0) : all; // top-p is taken of what top-k leaves
  let before = 0;
  const stays = (w, i) => {
    const fits = !(k && i >= k) && (p >= 1 || before < p * mass) && w >= least;
    before += w;
    return fits;
  };
  const tokens = kept.map(([text], i) => ({ text, w: weights[i], before: weights[i] / all, stays: stays(weights[i], i) }));
  let [restCount, restMass] = [0, 0];
  for (const bin of bins) {
    if (k || (p < 1 && before >= p * mass) || bin.w < least) break;
    const n = p < 1 ? Math.min(bin.n, Math.ceil((p * mass - before) / bin.w)) : bin.n;
    restCount += n;
    restMass += n * bin.w;
    before += bin.n * bin.w;
  }
  mass = tokens.reduce((sum, token) => sum + (token.stays ? token.w : 0), restMass);
  const share = (w) => w / mass;
  const information = (q) => (q > 0 ? -q * Math.log2(q) : 0);
  let entropy = 0;
  for (const token of tokens) {
    token.p = token.stays ? share(token.w) : 0;
    entropy += information(token.p);
  }
  if (restCount) entropy += restCount * information(share(restMass) / restCount);
  return { tokens, rest: share(restMass), restCount, entropy };
}
