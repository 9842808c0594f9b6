// The page: pictures come in, wait their turn, and get their captions.

import { ask, form, keepKey, plain, Refusal } from "./api.js";
import { Card } from "./card.js";
import { chosen, fit } from "./options.js";
import { asJsonl, asText, copy, download } from "./save.js";

const AT_ONCE = 4;
// Bytes that a form adds to the picture in it.
const ENVELOPE = 10_000;
const LONGEST_PAUSE = 15;
// These are faults of the file, so asking again does not help.
const HOPELESS = ["unreadable_image", "too_many_pixels", "too_large"];

const part = (id) => document.getElementById(id);
const cards = [];
let waiting = [];
let working = 0;
let model = null;
let pause = null; // until when, why, and what wakes it

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

function say(text) {
  part("live").textContent = text;
}

function status(kind, text) {
  part("status").dataset.kind = kind;
  part("status-text").textContent = text;
}

// ---- pictures in

function add(files) {
  const room = cards.length === 0;
  for (const file of files) {
    const card = new Card(file, { again: enqueue, gone: remove, said: say });
    cards.push(card);
    part("cards").append(card.part);
    enqueue(card);
  }
  if (room && files.length) part("empty").hidden = true;
  count();
}

function enqueue(card) {
  if (model && card.file.size > model.limits.bytes - ENVELOPE) {
    const megabytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MB`;
    card.fail(
      `The file is too large: it has ${megabytes(card.file.size)}, and this server accepts ` +
        `at most ${megabytes(model.limits.bytes)}.`,
      false,
    );
    count();
    return;
  }
  card.wait(pause ? pause.text : "Waiting");
  if (!waiting.includes(card)) waiting.push(card);
  count();
  run();
}

function remove(card) {
  const at = cards.indexOf(card);
  cards.splice(at, 1);
  waiting = waiting.filter((each) => each !== card);
  card.remove();
  say(`${card.name} is removed`);
  const next = cards[Math.min(at, cards.length - 1)];
  (next ? next.part.querySelector(".remove") : part("pick")).focus();
  count();
}

// ---- captions out

async function run() {
  if (!model) return;
  while (waiting.length && working < AT_ONCE && !pause) {
    const options = chosen();
    if (!options) {
      for (const card of waiting.splice(0)) card.fail("Correct the options first.");
      count();
      return;
    }
    working += 1;
    caption(waiting.shift(), options).finally(() => {
      working -= 1;
      count();
      run();
    });
  }
}

async function caption(card, options) {
  card.work();
  count();
  try {
    const labels = model.kind === "classifier";
    const path = labels ? "v1/classify" : "v1/caption";
    const body = form(card.file, options);
    const answer = await ask(path, { method: "POST", body });
    const found = labels ? answer.labels[0] : answer.captions[0];
    const alternatives = found.alternatives.map((each) =>
      labels
        ? { text: each.label, score: each.probability }
        : { text: each.caption, score: each.score },
    );
    card.done(
      {
        labels,
        caption: labels ? found.label : found.caption,
        score: labels ? found.probability : found.score,
        confidence: labels ? null : found.confidence,
        unsure: !labels && model.threshold !== null && found.confidence < model.threshold,
        alternatives,
      },
      options,
    );
    status("ready", model.model);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.kind === "refused") {
      card.fail(error.message, !HOPELESS.includes(error.type));
      return;
    }
    waiting.unshift(card);
    card.wait("Waiting");
    if (error.kind === "busy") hold(error.seconds, plain(error.message));
    else if (error.kind === "key") await askForKey();
    else away();
  }
}

// Send nothing until the time that the server named.
async function hold(seconds, reason) {
  if (pause) return;
  pause = { text: "Waiting for the server" };
  const woken = new Promise((resolve) => (pause.wake = resolve));
  for (let left = Math.ceil(seconds); left > 0; left -= 1) {
    banner(`${reason.replace(/; .*/, "")}. The page goes on in ${left} s.`);
    if ((await Promise.race([sleep(1), woken])) === "now") break;
  }
  goOn();
}

// The server does not answer: pictures wait here until it does.
async function away() {
  if (pause) return;
  pause = { text: "Waiting for the server" };
  status("away", "Not reachable");
  say("The server cannot be reached.");
  for (let seconds = 1; ; seconds = Math.min(2 * seconds, LONGEST_PAUSE)) {
    const woken = new Promise((resolve) => (pause.wake = resolve));
    banner("The server cannot be reached. Pictures wait here until it is back.");
    for (const card of waiting) card.wait(pause.text);
    await Promise.race([sleep(seconds), woken]);
    try {
      const facts = await ask("v1/model");
      const health = await ask("health/ready");
      model = facts;
      status("ready", health.status === "ready" ? model.model : health.status);
      break;
    } catch (error) {
      if (error.kind === "busy") banner("The server is starting.");
      if (error.kind === "key") {
        await askForKey();
        break;
      }
    }
  }
  say("The server is back.");
  goOn();
}

function goOn() {
  pause = null;
  part("banner").hidden = true;
  for (const card of waiting) card.wait("Waiting");
  run();
}

function banner(text) {
  part("banner").hidden = false;
  if (part("banner-text").textContent !== text) part("banner-text").textContent = text;
}

let keyAsked = null;

function askForKey() {
  keyAsked ??= new Promise((resolve) => {
    pause = { text: "Waiting for the key" };
    const dialog = part("key-dialog");
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    part("key-form").onsubmit = async (event) => {
      event.preventDefault();
      keepKey(part("key").value);
      try {
        await ask("v1/model");
      } catch (error) {
        part("key-complaint").textContent =
          error.kind === "key" ? "This is not the key of this server." : error.message;
        part("key").select();
        return;
      }
      part("key").value = "";
      dialog.close();
      keyAsked = null;
      resolve();
      goOn();
    };
    dialog.showModal();
  });
  return keyAsked;
}

// ---- all results

function results() {
  return cards
    .filter((card) => card.result)
    .map(({ name, shown, result }) => ({
      name,
      caption: shown,
      score: result.alternatives.find((each) => each.text === shown)?.score ?? result.score,
      ...(shown === result.caption && result.confidence !== null && { confidence: result.confidence }),
      alternatives: result.alternatives.map((each) => ({ caption: each.text, score: each.score })),
    }));
}

function count() {
  const done = cards.filter((card) => card.result && card.part.dataset.state === "done").length;
  const failed = cards.filter((card) => card.part.dataset.state === "failed").length;
  part("toolbar").hidden = cards.length === 0;
  part("empty").hidden = cards.length > 0;
  part("progress").max = cards.length || 1;
  part("progress").value = done + failed;
  part("progress").hidden = done + failed === cards.length;
  const verb = model?.kind === "classifier" ? "labelled" : "captioned";
  part("count-text").textContent =
    `${done} of ${cards.length} ${verb}` + (failed ? `, ${failed} failed` : "");
  part("again").disabled = cards.length === 0 || cards.length === failed;
  for (const id of ["copy-all", "save-text", "save-jsonl"]) part(id).disabled = done === 0;
}

// ---- events

part("pick").addEventListener("change", (event) => {
  add([...event.target.files]);
  event.target.value = "";
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) {
    event.preventDefault();
    add(files);
  }
});
const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
document.addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  part("dropping").hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) part("dropping").hidden = true;
});
document.addEventListener("drop", (event) => {
  part("dropping").hidden = true;
  if (!carriesFiles(event)) return;
  event.preventDefault();
  add([...event.dataTransfer.files]);
});
part("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!chosen()) return;
  for (const card of cards) {
    if (card.part.dataset.state === "done" || card.part.dataset.state === "failed") enqueue(card);
  }
  say("Captioning again");
});
part("banner-now").addEventListener("click", () => pause?.wake?.("now"));
part("clear").addEventListener("click", () => {
  for (const card of cards.splice(0)) card.remove();
  waiting = [];
  say("All pictures are removed");
  count();
  part("pick").focus();
});
part("copy-all").addEventListener("click", async () => {
  await copy(asText(results()));
  say("All captions are copied");
  part("copy-all").textContent = "Copied";
  setTimeout(() => (part("copy-all").textContent = "Copy all"), 1500);
});
part("save-text").addEventListener("click", () =>
  download("captions.txt", asText(results()), "text/plain"),
);
part("save-jsonl").addEventListener("click", () =>
  download("captions.jsonl", asJsonl(results()), "application/jsonl"),
);

// ---- the beginning

async function begin() {
  for (;;) {
    try {
      model = await ask("v1/model");
      fit(model);
      break;
    } catch (error) {
      if (error.kind === "key") await askForKey();
      else {
        status("away", "Not reachable");
        await sleep(2);
      }
    }
  }
  for (;;) {
    try {
      await ask("health/ready");
      break;
    } catch (error) {
      status("starting", "Starting");
      await sleep(1);
    }
  }
  status("ready", model.model);
  for (const card of [...waiting]) {
    waiting = waiting.filter((each) => each !== card);
    enqueue(card);
  }
}

begin();
