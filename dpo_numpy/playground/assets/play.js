// The page asks; Python computes and writes. Nothing of DPO is computed here: a change of a control is sent to `show`,
// by the server or by Python in the browser, and the parts that come back replace those of the page by their id.
"use strict";

const $ = (id) => document.getElementById(id);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

document.documentElement.classList.add("js");

// ---- parameters: what the controls say

const shown = (x) => String(x).replace("-", "\u2212");

function valueOf(control) {
  if (control.tagName === "SELECT") return control.value;
  const x = Number(control.value);
  return control.dataset.scale === "log10" ? Number((10 ** x).toPrecision(2)) : x;
}

function params(panel) {
  const found = { panel };
  const from = panel === "curves" ? "pair" : panel;
  for (const control of all(`[data-panel="${from}"]`)) {
    const { name, place } = control.dataset;
    if (place === undefined) found[name] = valueOf(control);
    else (found[name] ??= [])[Number(place)] = valueOf(control);
  }
  if (panel === "derivation") found.ref = [0.2, 0.5, 0.3];
  if (panel === "run") found.steps = Number($("replay-step").max);
  return found;
}

function label(control) {
  if (control.type !== "range") return;
  const x = valueOf(control);
  const text = shown(control.step === "0.1" ? x.toFixed(1) : x);
  control.nextElementSibling.textContent = text;
  control.setAttribute("aria-valuetext", text);
}

// ---- asking: one question of a panel at a time, and after it the latest

const asking = {};
let engine = askServer;

const ALONE = "This copy of the page has no Python behind it, so its numbers stay as they were built. To make it " +
  "live, run dpo-numpy play, or add ?pyodide= and the address of a Pyodide folder to this page's address.";
const GONE = "Nobody answers: the numbers stay as they are. To go on, run dpo-numpy play again and reload this page.";

async function askServer(question) {
  let response;
  try {
    response = await fetch("show", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question),
    });
  } catch {
    throw new Away(location.protocol === "file:" ? ALONE : GONE);
  }
  if (!(response.headers.get("Content-Type") ?? "").startsWith("application/json")) throw new Away(ALONE);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

class Away extends Error {}

function notice(text) {
  $("notice").hidden = !text;
  if ($("notice").textContent !== text) $("notice").textContent = text;
}

const settled = {};  // of a panel that is asking: the promise of its latest answer
const answered = {};  // the settings whose numbers a panel shows
const refused = {};  // why the settings of a panel have no numbers

const current = (panel) => JSON.stringify(params(panel)) === answered[panel];

function ask(panel) {
  if (asking[panel]) asking[panel] = "again";
  else settled[panel] = answers(panel);
}

async function answers(panel) {
  do {
    asking[panel] = "once";
    const question = params(panel);
    try {
      const answer = await engine(question);
      put(answer.parts);
      if (panel === "run") replayOf(answer.numbers);
      answered[panel] = JSON.stringify(question);
      refused[panel] = "";
      notice("");
    } catch (error) {
      notice(error.message);
      if (error instanceof Away) break;
      refused[panel] = error.message;
      if (panel === "run") stop();
    }
  } while (asking[panel] === "again");
  asking[panel] = undefined;
  verdicts();
}

const saying = {};

function put(parts) {
  for (const [id, markup] of Object.entries(parts)) {
    if (!id.endsWith("-said")) { $(id).innerHTML = markup; continue; }
    clearTimeout(saying[id]);  // a screen reader hears where a slider came to rest, not each place on the way
    saying[id] = setTimeout(() => { $(id).innerHTML = markup; }, 300);
  }
}

const PANELS = { derivation: ["derivation"], pair: ["pair", "curves"], run: ["run"] };

for (const control of all("[data-panel]")) {
  label(control);
  control.addEventListener("input", () => {
    const { panel, name, place } = control.dataset;
    const { lr } = control.selectedOptions?.[0].dataset ?? {};
    if (lr) { $("run-lr").value = lr; label($("run-lr")); }
    for (const twin of all(`[data-panel="${panel}"][data-name="${name}"]`)) {
      if (twin !== control && twin.dataset.place === place) { twin.value = control.value; }
      label(twin);
    }
    PANELS[panel].forEach(ask);
  });
}

// ---- the derivation, step by step

const steps = all(".step");
const tabs = all("[data-step]");
let step = 0;

const everything = () => $("step-all").getAttribute("aria-pressed") === "true";

function goto(index, whole = false) {
  step = Math.min(Math.max(index, 0), steps.length - 1);
  $("step-all").setAttribute("aria-pressed", whole);
  steps.forEach((item, i) => { item.hidden = !whole && i !== step; });
  tabs.forEach((tab, i) => {
    if (i === step && !whole) tab.setAttribute("aria-current", "step");
    else tab.removeAttribute("aria-current");
  });
  $("step-back").setAttribute("aria-disabled", !whole && step === 0);
  $("step-next").setAttribute("aria-disabled", !whole && step === steps.length - 1);
  document.querySelector(".steps").classList.toggle("all", whole);
  $("step-said").textContent = whole ? "All steps. A number, or Next, shows one at a time."
    : `Step ${step + 1} of ${steps.length}`;
}

$("step-back").addEventListener("click", () => goto(everything() ? step : step - 1));
$("step-next").addEventListener("click", () => goto(everything() ? step : step + 1));
tabs.forEach((tab, i) => tab.addEventListener("click", () => goto(i)));
$("step-all").addEventListener("click", () => goto(step, !everything()));
document.querySelector(".stepper").addEventListener("keydown", (event) => {
  const to = {
    ArrowRight: step + 1, ArrowDown: step + 1, ArrowLeft: step - 1, ArrowUp: step - 1, Home: 0, End: steps.length - 1,
  }[event.key];
  if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  goto(to);
  if (tabs.includes(document.activeElement)) tabs[step].focus();
});
goto(0, true);

// ---- predict, then reveal

const open = { pair: new Set(), run: new Set() };  // the questions whose answers are shown

function note(panel, text) {
  const place = document.querySelector(`[data-note="${panel}"]`);
  if (place.textContent !== text) place.textContent = text;
}

const picked = (key) => document.querySelector(`input[name="${key}"]:checked`)?.value;
const questions = (panel) => all(`[data-predict="${panel}"] [data-question]`);

function verdicts() {
  for (const panel of Object.keys(open)) {
    let right = 0, count = 0;
    for (const field of questions(panel)) {
      const key = field.dataset.question;
      const shownNow = open[panel].has(key) && !refused[panel];
      const answer = field.querySelector("p.answer");
      answer.classList.toggle("open", shownNow);
      const said = field.dataset.said;
      const truth = answer.querySelector("[data-truth]")?.dataset.truth;
      const text = !shownNow ? "" : said === undefined ? "You made no prediction."
        : `You said: ${field.dataset.words}. ${said === truth ? "\u2713 Right." : "\u2717 Not so."}`;
      const verdict = field.querySelector(".verdict");
      if (verdict.textContent !== text) verdict.textContent = text;
      if (shownNow && said !== undefined) { count += 1; right += said === truth; }
    }
    const shows = open[panel].size > 0 && !refused[panel];
    all(`#${panel} div.answer`).forEach((part) => part.classList.toggle("open", shows));
    if (open[panel].size) note(panel, refused[panel] || (count ? `Right: ${right} of your ${count} predictions.` : ""));
  }
}

async function reveal(panel, skip) {
  await settled[panel];
  const fields = questions(panel);
  const unsaid = fields.filter((field) => picked(field.dataset.question) === undefined);
  if (unsaid.length && !skip && (panel === "run" || unsaid.length === fields.length)) {
    const many = unsaid.length > 1;
    note(panel, `${unsaid.length} question${many ? "s have" : " has"} no answer of yours yet.`);
    unsaid[0].querySelector("input").focus();
    return;
  }
  if (!current(panel)) { note(panel, refused[panel] || $("notice").textContent); return; }
  for (const field of fields) {
    const key = field.dataset.question;
    const chosen = picked(key);
    if (chosen === undefined && !skip) continue;
    if (chosen !== undefined) {
      field.dataset.said = chosen;
      field.dataset.words = document.querySelector(`input[name="${key}"]:checked`).parentElement.textContent.trim();
    }
    open[panel].add(key);
  }
  verdicts();
  if (panel === "run") play(0);
}

for (const form of all("[data-predict]")) {
  form.addEventListener("submit", (event) => { event.preventDefault(); reveal(form.dataset.predict, false); });
}
for (const button of all("[data-skip]")) button.addEventListener("click", () => reveal(button.dataset.skip, true));
for (const button of all("[data-clear]")) {
  button.addEventListener("click", () => {
    const panel = button.dataset.clear;
    stop();
    open[panel].clear();
    for (const field of questions(panel)) {
      delete field.dataset.said;
      delete field.dataset.words;
      all("input", field).forEach((input) => { input.checked = false; });
    }
    verdicts();
    note(panel, "Your answers are cleared.");
  });
}

// ---- the replay

let replayed = JSON.parse($("run-numbers").textContent);
let timer = 0;

const fixed = (x, digits) => {
  const text = Math.abs(x).toFixed(digits);
  return (Number(text) === 0 ? "" : x > 0 ? "+" : "\u2212") + text;
};

function at(k) {
  $("replay-step").value = k;
  $("replay-step").nextElementSibling.textContent = k;
  const cell = (name, text) => { document.querySelector(`[data-cell="${name}"]`).textContent = text; };
  replayed.log_ratio[k].forEach((pair, b) => {
    pair.forEach((x, i) => cell(`${b}-${i}`, fixed(x, 2)));
    cell(`${b}-margin`, fixed(replayed.margin[k][b], 3));
  });
  cell("step", k);
  cell("value", replayed.value[k].toFixed(4));
  cell("accuracy", (100 * replayed.accuracy[k]).toFixed(0));
  for (const svg of all("svg[data-chart]")) {  // what has not happened yet is cut off
    const left = Number(svg.dataset.left), right = Number(svg.dataset.right);
    const x = left + (right - left) * k / replayed.steps;
    all(".line", svg).forEach((line) => cut(line, x));
    all(".now, .dot", svg).forEach((mark) => { mark.style.display = k === replayed.steps ? "" : "none"; });
  }
}

function cut(line, x) {
  line.dataset.whole ??= line.getAttribute("d");
  const points = line.dataset.whole.slice(1).split("L").filter((point) => Number(point.split(" ")[0]) <= x + 0.06);
  line.setAttribute("d", `M${points.join("L")}${points.length === 1 ? "h0.01" : ""}`);
}

function stop() {
  clearInterval(timer);
  timer = 0;
  $("replay").textContent = "Play";
}

function play(from) {
  stop();
  if (calm()) { at(replayed.steps); return; }
  let k = from;
  at(k);
  $("replay").textContent = "Pause";
  timer = setInterval(() => {
    k += 1;
    at(k);
    if (k >= replayed.steps) stop();
  }, 4000 / replayed.steps);
}

function replayOf(numbers) {
  stop();
  replayed = numbers;
  at(replayed.steps);
}

$("replay").addEventListener("click", () => {
  if (timer) { stop(); return; }
  const k = Number($("replay-step").value);
  play(k >= replayed.steps ? 0 : k);
});
$("replay-step").addEventListener("input", () => { stop(); at(Number($("replay-step").value)); });
Object.keys(open).forEach((panel) => { answered[panel] = JSON.stringify(params(panel)); });
verdicts();

// ---- Python in this browser, where the page's address or the page itself names a Pyodide

const named = new URLSearchParams(location.search).get("pyodide")
  ?? document.querySelector('meta[name="pyodide"]')?.content;

async function startPyodide(address) {
  const folder = new URL(address.endsWith("/") ? address : `${address}/`, location.href).href;
  const { loadPyodide } = await import(`${folder}pyodide.mjs`);
  const python = await loadPyodide({ indexURL: folder });
  await python.loadPackage("numpy");
  python.unpackArchive(await (await fetch("python.zip")).arrayBuffer(), "zip");
  const answer = python.runPython(`
import json
from dpo_numpy.playground.view import show
def answer(text):
    try:
        return json.dumps(show(json.loads(text)))
    except ValueError as error:
        return json.dumps({"error": str(error)})
answer`);
  return async (question) => {
    const found = JSON.parse(answer(JSON.stringify(question)));
    if (found.error) throw new Error(found.error);
    return found;
  };
}

if (named) {
  notice("Python is on its way into this browser.");
  const starting = startPyodide(named);
  engine = (question) => starting.then((answer) => answer(question), () => askServer(question));
  starting.then(
    () => { notice(""); document.documentElement.dataset.engine = "pyodide"; },
    (error) => {
      engine = askServer;
      const lines = error.message.trim().split("\n");  // of a traceback the line that names the error
      notice(`Python did not start in this browser: ${lines.findLast((line) => /^\w*Error: /.test(line)) ?? lines[0]}`);
    },
  );
}
