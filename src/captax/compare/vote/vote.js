"use strict";
const get = (id) => document.getElementById(id);
const KEYS = { 1: "left", 2: "right", 0: "tie" };
let question = null, busy = true;

function show(state) {
  question = state.question;
  get("voter").textContent = `voting as ${state.voter}`;
  get("progress").max = Math.max(1, state.total);
  get("progress").value = state.done;
  get("count").textContent = `${state.done} of ${state.total} answered`;
  get("undo").disabled = state.done === 0;
  const same = state.same === 1 ? "1 pair of equal captions was passed over, and counts as a tie."
    : `${state.same} pairs of equal captions were passed over, and count as ties.`;
  get("same").textContent = state.same ? same : "";
  get("question").hidden = question === null;
  get("end").hidden = question !== null;
  get("complaint").textContent = "";
  if (question === null) {
    get("live").textContent = "All questions are answered.";
    return;
  }
  const picture = get("picture");
  get("missing").hidden = true;
  picture.hidden = !state.picture;
  if (state.picture) picture.src = state.picture; else get("missing").hidden = false;
  get("left").textContent = state.left || "(an empty caption)";
  get("right").textContent = state.right || "(an empty caption)";
  get("live").textContent = `Question ${state.done + 1} of ${state.total}. ` +
    `1: ${state.left}. 2: ${state.right}.`;
}

async function ask(path, body) {
  busy = true;
  try {
    const how = body === undefined ? {} : { method: "POST", body: JSON.stringify(body),
      headers: { "content-type": "application/json" } };
    const answer = await fetch(path, how);
    const told = await answer.json();
    if (answer.status === 409) show(await (await fetch("/state")).json());
    else if (!answer.ok) throw new Error(told.error.message);
    else show(told);
  } catch (error) {
    get("complaint").textContent = error instanceof TypeError
      ? "The server does not answer. Start it again, and reload this page." : error.message;
  } finally {
    busy = false;
  }
}

function choose(choice) {
  if (!busy && question !== null) ask("/votes", { question, choice });
}

for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => choose(button.dataset.choice));
}
const undo = () => { if (!busy && !get("undo").disabled) ask("/undo", {}); };
get("undo").addEventListener("click", undo);
get("picture").addEventListener("error", () => {
  get("picture").hidden = true;
  get("missing").hidden = false;
});
addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in KEYS) choose(KEYS[event.key]);
  else if (event.key.toLowerCase() === "u") undo();
  else return;
  event.preventDefault();
});
ask("/state");
