// The page's own script: what stands in #data becomes heat maps. All text of the data is put in as
// text nodes, never as markup.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const control = {
  search: byId("search"), run: byId("run"), placement: byId("placement"), other: byId("other"),
  differ: byId("differ"), sort: byId("sort"), m: byId("m"),
};
const PAGE = 10; // examples that are drawn at a time
const MANY = 3; // more pauses than this in one place are a number
const state = { page: 0, live: false, shown: [] };

// --- Examples as they were stored -----------------------------------------------------------------

const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const numbers = (text) => (text === "" ? [] : text.split(",").map(Number));

/** Scores of one run: logprob as the dataset has it, rank, entropy in thousandths of a nat. */
function readScores(stored) {
  return {
    logprob: new Float32Array(bytesOf(stored.l).buffer),
    rank: stored.r === null ? null : numbers(stored.r),
    entropy: stored.e === null ? null : new Uint16Array(bytesOf(stored.e).buffer),
  };
}

/** Cut the response into what each token stands for. */
function piecesOf(example) {
  let at = 0;
  return numbers(example.len).map((length) => example.response.slice(at, (at += length)));
}

function open(example) {
  if (!example.pieces) {
    example.pieces = piecesOf(example);
    example.scores = example.runs.map(readScores);
    example.inside = new Set(example.no);
    example.text = `${example.id}\n${example.prompt}${example.response}`.toLowerCase();
  }
  return example;
}

function meanSurprisal(example, run) {
  const { logprob } = open(example).scores[run];
  return logprob.length ? -logprob.reduce((a, b) => a + b, 0) / logprob.length : 0;
}

/** The M least likely tokens that begin a character, of equal ones the earlier, as the strategy
 * lowest_logprob chooses: a map from position to pauses. */
function leastLikely(example, run, most) {
  const { logprob } = open(example).scores[run];
  const eligible = [...logprob.keys()].filter((k) => !example.inside.has(k));
  eligible.sort((a, b) => logprob[a] - logprob[b] || a - b);
  return new Map(eligible.slice(0, most).sort((a, b) => a - b).map((k) => [k, 1]));
}

/** A stored placement's pauses; `at` -1: none. */
function placed(example, at) {
  const flat = at < 0 ? [] : example.places[at];
  return new Map(Array.from({ length: flat.length / 2 }, (_, k) => [flat[2 * k], flat[2 * k + 1]]));
}

// --- What the controls say ------------------------------------------------------------------------

/** The run whose scores colour, and the one that is taken from it in a comparison. */
function runs() {
  const [run, minus] = control.run ? control.run.value.split("-").map(Number) : [];
  return { run, minus };
}

const chosenPlacement = () => (control.placement ? Number(control.placement.value) : -1);
const otherPlacement = () => (control.other ? Number(control.other.value) : -2);

function pausesOf(example) {
  const { run } = runs();
  return state.live
    ? leastLikely(example, run, Number(control.m.value))
    : placed(example, chosenPlacement());
}

const samePlaces = (a, b) => a.size === b.size && [...a].every(([k, n]) => b.get(k) === n);

function choose() {
  const words = control.search.value.toLowerCase();
  const { run } = runs();
  let found = data.examples.filter((example) => open(example).text.includes(words));
  if (otherPlacement() > -2 && control.differ.checked) {
    found = found.filter((e) => !samePlaces(pausesOf(e), placed(e, otherPlacement())));
  }
  const order = control.sort.value;
  if (run !== undefined && order !== "corpus") {
    const by = new Map(found.map((example) => [example, meanSurprisal(example, run)]));
    const sign = order === "hardest" ? -1 : 1;
    found.sort((a, b) => sign * (by.get(a) - by.get(b)));
  }
  state.shown = found;
  state.page = Math.min(state.page, Math.max(0, Math.ceil(found.length / PAGE) - 1));
}

// --- Drawing --------------------------------------------------------------------------------------

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** The class of a surprisal on the scale; empty below it. */
function heat(surprisal) {
  const at = data.scale.filter((least) => surprisal >= least).length;
  return at ? `h${at}` : "";
}

function change(difference) {
  const at = data.changes.filter((least) => Math.abs(difference) >= least).length;
  return at ? `${difference > 0 ? "up" : "down"}${at}` : "";
}

function heatOf(example, k) {
  const { run, minus } = runs();
  if (run === undefined) return "";
  const surprisal = -example.scores[run].logprob[k];
  return minus === undefined ? heat(surprisal) : change(surprisal + example.scores[minus].logprob[k]);
}

function mark(count, kind) {
  const element = make("span", `pause ${kind}`);
  const drawn = make("span");
  drawn.setAttribute("aria-hidden", "true");
  for (let k = 0; k < (count <= MANY ? count : 1); k++) drawn.append(make("span", "sign"));
  if (count > MANY) drawn.append(`×${count}`);
  const said = { a: "", b: " of the other placement", both: " of both placements" }[kind];
  element.append(drawn, make("span", "hidden", data.pause.repeat(count) + said));
  return element;
}

function marksAt(k, pauses, others) {
  const a = pauses.get(k) || 0;
  const b = others ? others.get(k) || 0 : 0;
  if (!others) return a ? [mark(a, "a")] : [];
  if (a && a === b) return [mark(a, "both")];
  return [...(a ? [mark(a, "a")] : []), ...(b ? [mark(b, "b")] : [])];
}

function drawResponse(example) {
  const pauses = pausesOf(example);
  const others = otherPlacement() > -2 ? placed(example, otherPlacement()) : null;
  const line = make("div", "response");
  line.dir = "auto";
  example.pieces.forEach((piece, k) => {
    line.append(...marksAt(k, pauses, others));
    // An added EOS covers no text; of tokens that share a character the first one shows it.
    const shown = piece || (example.names[k] === undefined ? "" : example.names[k]);
    const token = make("span", `token ${heatOf(example, k)}`, shown.replaceAll("\n", "⏎\n"));
    if (!piece) token.classList.add("unseen");
    token.dataset.k = k;
    token.tabIndex = k ? -1 : 0;
    line.append(token);
  });
  line.append(...marksAt(example.pieces.length, pauses, others));
  const covered = example.pieces.reduce((sum, piece) => sum + piece.length, 0);
  line.append(example.response.slice(covered));
  return line;
}

function link(example) {
  const named = { example: example.id };
  if (control.run) named.run = control.run.selectedOptions[0].text;
  if (control.placement) named.placement = control.placement.selectedOptions[0].text;
  return `#${new URLSearchParams(named)}`;
}

function drawExample(example) {
  const { run } = runs();
  const article = make("article", "example");
  article.example = example;
  const head = make("h3");
  const anchor = make("a", "", example.id);
  anchor.href = link(example);
  head.append(anchor);
  const facts = [example.split, `${example.pieces.length} tokens`];
  if (run !== undefined) facts.push(`mean surprisal ${meanSurprisal(example, run).toFixed(3)} nats`);
  const places = pausesOf(example);
  const count = [...places.values()].reduce((a, b) => a + b, 0);
  facts.push(count === 1 ? "1 pause" : `${count} pauses`);
  const prompt = make("div", "prompt", example.prompt);
  prompt.dir = "auto";
  article.append(head, make("p", "facts", facts.join(" · ")), prompt, drawResponse(example));
  return article;
}

function draw() {
  hideTip();
  choose();
  const first = state.page * PAGE;
  const drawn = state.shown.slice(first, first + PAGE);
  byId("examples").replaceChildren(...drawn.map(drawExample));
  const total = data.examples.length;
  const range = drawn.length ? `, ${first + 1} to ${first + drawn.length} here` : "";
  byId("found").textContent = `${state.shown.length} of ${total} examples${range}`;
  byId("previous").disabled = state.page === 0;
  byId("next").disabled = first + PAGE >= state.shown.length;
  byId("pages").hidden = state.shown.length <= PAGE;
  drawLegend();
  if (control.m) drawSlider();
}

function drawSlider() {
  byId("m-value").textContent = control.m.value;
  const { run } = runs();
  const name = data.runs[run].name;
  byId("live").textContent = state.live
    ? `Live: pauses before the ${control.m.value} least likely tokens of run ${name}. To keep them: `
    : "";
  byId("make").textContent = state.live
    ? `pausedata place ${data.dataset} least-${control.m.value} --strategy lowest_logprob ` +
      `--param positions=${control.m.value} --run ${name}`
    : "";
}

function drawLegend() {
  const comparing = runs().minus !== undefined;
  if (control.run) {
    byId("scale").hidden = comparing;
    byId("changes").hidden = !comparing;
  }
  if (control.other) byId("marks").hidden = otherPlacement() === -2;
}

// --- What a token is: shown beside it -------------------------------------------------------------

const tip = byId("tip");

function rowsOf(example, k) {
  const { run, minus } = runs();
  const rows = [["token", JSON.stringify(example.names[k] ?? example.pieces[k]).slice(1, -1)]];
  for (const at of minus === undefined ? [run] : [run, minus]) {
    if (at === undefined) continue;
    const { logprob, rank, entropy } = example.scores[at];
    const of = minus === undefined ? "" : ` (${data.runs[at].name})`;
    rows.push([`log-probability${of}`, `${logprob[k].toFixed(4)} nats`]);
    rows.push([`probability${of}`, Math.exp(logprob[k]).toPrecision(3)]);
    if (rank) rows.push([`rank${of}`, rank[k].toLocaleString("en")]);
    if (entropy) rows.push([`entropy${of}`, `${(entropy[k] / 1000).toFixed(3)} nats`]);
  }
  rows.push(["position", `${k}`]);
  return rows;
}

function showTip(token) {
  const { example } = token.closest("article");
  const rows = rowsOf(example, Number(token.dataset.k)).map(([name, value]) => {
    const row = make("div");
    row.append(make("span", "name", name), " ", make("span", "value", value));
    return row;
  });
  tip.replaceChildren(...rows);
  tip.hidden = false;
  const box = token.getClientRects()[0] || token.getBoundingClientRect();
  const width = document.documentElement.clientWidth;
  const below = box.bottom + tip.offsetHeight + 8 < innerHeight;
  tip.style.left = `${Math.max(4, Math.min(box.left, width - tip.offsetWidth - 4)) + scrollX}px`;
  tip.style.top = `${(below ? box.bottom + 4 : box.top - tip.offsetHeight - 4) + scrollY}px`;
}

function hideTip() {
  tip.hidden = true;
}

const tokenOf = (event) => event.target.closest?.(".token");

const list = byId("examples");
list.addEventListener("pointerover", (event) => {
  const token = tokenOf(event);
  if (token) showTip(token);
  else if (!document.activeElement.matches(".token")) hideTip();
});
list.addEventListener("pointerleave", hideTip);
list.addEventListener("focusin", (event) => {
  const token = tokenOf(event);
  if (!token) return;
  for (const other of token.parentElement.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  token.tabIndex = 0;
  token.setAttribute("aria-describedby", "tip");
  showTip(token);
});
list.addEventListener("focusout", (event) => {
  const token = tokenOf(event);
  if (token) token.removeAttribute("aria-describedby");
  hideTip();
});
list.addEventListener("keydown", (event) => {
  const token = tokenOf(event);
  if (!token) return;
  const tokens = [...token.parentElement.querySelectorAll(".token")];
  const at = tokens.indexOf(token);
  const to = {
    ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1,
    Home: 0, End: tokens.length - 1,
  }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  tokens[Math.max(0, Math.min(to, tokens.length - 1))].focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});

// --- The controls ---------------------------------------------------------------------------------

function ownM() {
  const at = chosenPlacement();
  return at < 0 ? null : data.placements[at].positions;
}

function again(change) {
  return () => {
    change();
    state.page = 0;
    draw();
  };
}

function takePlacement() {
  state.live = false;
  if (control.m && ownM() !== null) control.m.value = ownM();
}

const nothing = () => {};
control.search.addEventListener("input", again(nothing));
control.sort.addEventListener("change", again(nothing));
if (control.run) control.run.addEventListener("change", () => draw());
if (control.placement) control.placement.addEventListener("change", again(takePlacement));
if (control.other) {
  control.other.addEventListener("change", again(() => {
    control.differ.disabled = otherPlacement() === -2;
    if (control.differ.disabled) control.differ.checked = false;
  }));
  control.differ.addEventListener("change", again(nothing));
}
if (control.m) {
  control.m.addEventListener("input", () => {
    state.live = true;
    draw();
  });
}
byId("all").addEventListener("click", () => {
  byId("controls").reset();
  if (control.differ) control.differ.disabled = true;
  again(takePlacement)();
});
byId("controls").addEventListener("submit", (event) => event.preventDefault());

function turn(by) {
  state.page += by;
  draw();
  byId("found").scrollIntoView();
}
byId("previous").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));

/** Go where the address says: #example=ID, with run= and placement=. */
function follow() {
  const named = new URLSearchParams(location.hash.slice(1));
  if (!named.has("example")) return;
  for (const key of ["run", "placement"]) {
    const option = [...(control[key]?.options ?? [])].find((o) => o.text === named.get(key));
    if (option) control[key].value = option.value;
  }
  takePlacement();
  control.search.value = "";
  if (control.differ) control.differ.checked = false;
  choose();
  const at = state.shown.findIndex((example) => example.id === named.get("example"));
  if (at < 0) {
    draw();
    byId("found").textContent = `no example ${named.get("example")} on this page`;
    return;
  }
  state.page = Math.floor(at / PAGE);
  draw();
  const article = list.children[at % PAGE];
  article.scrollIntoView();
  article.querySelector("a").focus({ preventScroll: true });
}
addEventListener("hashchange", follow);

takePlacement();
draw();
follow();
