// A picture on the page: its state, its caption word by word, its alternatives.

import { ask, form } from "./api.js";
import { draw, where } from "./map.js";
import { copy } from "./save.js";

const template = document.getElementById("card-template");
let count = 0;

const percent = (share) =>
  share > 0 && share < 0.01 ? "under 1%" : `${Math.round(100 * share)}%`;

const HINT = "Point at a word, or tap it, to see where the model looked.";
let hinted = false;

export class Card {
  // `hooks`: again(card), gone(card), said(text) for screen readers, fields() of a model.
  constructor(file, hooks) {
    this.file = file;
    this.hooks = hooks;
    this.name = file.name || "pasted picture";
    this.result = null;
    this.explanations = new Map();
    this.pinned = null;
    this.part = template.content.firstElementChild.cloneNode(true);
    const find = (selector) => this.part.querySelector(selector);
    this.image = find("img");
    this.canvas = find("canvas");
    this.state = find(".state");
    this.caption = find(".caption");
    this.unsure = find(".unsure");
    this.note = find(".note");
    this.others = find(".others");
    this.retry = find(".retry");
    this.copy = find(".copy");
    const id = `picture-${++count}`;
    find(".name").textContent = this.name;
    find(".name").id = id;
    find("article").setAttribute("aria-labelledby", id);
    this.caption.setAttribute("aria-label", `Caption of ${this.name}, word by word`);
    find(".remove").setAttribute("aria-label", `Remove ${this.name}`);
    this.copy.setAttribute("aria-label", `Copy the caption of ${this.name}`);
    this.retry.setAttribute("aria-label", `Try ${this.name} again`);
    this.url = URL.createObjectURL(file);
    this.image.src = this.url;
    this.image.alt = this.name;
    this.image.addEventListener("error", () => {
      this.image.hidden = true;
      find(".no-preview").hidden = false;
    });
    find(".remove").addEventListener("click", () => hooks.gone(this));
    this.retry.addEventListener("click", () => hooks.again(this));
    this.copy.addEventListener("click", async () => {
      await copy(this.shown);
      this.copy.textContent = "Copied";
      hooks.said("Copied");
      setTimeout(() => (this.copy.textContent = "Copy"), 1500);
    });
    this.watchWords();
    this.wait("Waiting");
  }

  wait(text) {
    this.part.dataset.state = "waiting";
    this.state.textContent = text;
    this.retry.hidden = true;
  }

  work() {
    this.part.dataset.state = "working";
    this.state.textContent = "Working";
    this.retry.hidden = true;
  }

  fail(message, retryable = true) {
    this.result = null;
    this.part.dataset.state = "failed";
    this.state.textContent = message;
    this.retry.hidden = !retryable;
    this.hooks.said(`${this.name}: ${message}`);
  }

  done(result, options) {
    this.result = result;
    this.options = options;
    this.explanations.clear();
    this.part.dataset.state = "done";
    this.state.textContent = "";
    this.show(result.caption);
    if (!hinted && !result.labels) this.note.textContent = HINT;
    hinted = true;
    this.hooks.said(`${this.name}: ${result.caption}${result.unsure ? " (not sure)" : ""}`);
  }

  // The caption that is shown: the best one, until another is chosen.
  show(text) {
    this.shown = text;
    // The confidence is in the best caption.
    this.unsure.hidden = !this.result.unsure || text !== this.result.caption;
    this.unsure.textContent = this.unsure.hidden
      ? ""
      : `Not sure: ${percent(this.result.confidence)} likely to be right`;
    this.hide(true);
    this.note.textContent = "";
    const words = text.split(/\s+/).filter(Boolean);
    this.words = words.map((word, i) => {
      const button = document.createElement(this.result.labels ? "span" : "button");
      button.className = "word";
      button.textContent = word;
      if (!this.result.labels) {
        button.type = "button";
        button.tabIndex = i ? -1 : 0;
        button.setAttribute("aria-pressed", "false");
      }
      return button;
    });
    this.caption.replaceChildren(...this.words.flatMap((word, i) => (i ? [" ", word] : [word])));
    if (!words.length) this.caption.textContent = "(empty caption)";
    this.showOthers();
  }

  showOthers() {
    const { alternatives, labels } = this.result;
    const items = alternatives.map(({ text, score }) => {
      const item = document.createElement("li");
      const other = document.createElement(labels ? "span" : "button");
      other.className = "other";
      const said = document.createElement("span");
      said.textContent = text || "(empty caption)";
      const number = document.createElement("span");
      number.className = "score";
      number.textContent = labels ? percent(score) : score.toFixed(2).replace("-", "−");
      if (!labels) number.title = "Mean log-probability of the tokens; 0 means certainty";
      other.append(said, " ", number);
      if (!labels) {
        other.type = "button";
        other.setAttribute("aria-pressed", String(text === this.shown));
        other.addEventListener("click", () => {
          this.show(text);
          this.others.querySelector("[aria-pressed=true]")?.focus();
        });
      }
      item.append(other);
      return item;
    });
    this.others.hidden = items.length < 2;
    this.others.querySelector("h3").textContent = labels ? "Labels" : "Captions, best first";
    this.others.querySelector("ol").replaceChildren(...items);
  }

  // Hovering or focusing a word shows its map; a click or a tap keeps it; Escape lets go.
  watchWords() {
    const word = (event) => this.words?.indexOf(event.target.closest("button.word")) ?? -1;
    this.caption.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse" && word(event) >= 0) this.look(word(event));
    });
    this.caption.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.hide();
    });
    this.caption.addEventListener("focusin", (event) => {
      if (event.target.matches(":focus-visible")) this.look(word(event));
    });
    this.caption.addEventListener("focusout", (event) => {
      if (!this.caption.contains(event.relatedTarget)) this.hide();
    });
    this.caption.addEventListener("click", (event) => {
      const i = word(event);
      if (i >= 0) this.pin(this.pinned === i ? null : i, i);
    });
    this.caption.addEventListener("keydown", (event) => {
      const i = word(event);
      const last = (this.words?.length ?? 0) - 1;
      const to = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: last }[event.key];
      if (event.key === "Escape") this.hide(true);
      if (to === undefined || i < 0) return;
      event.preventDefault();
      const next = Math.max(0, Math.min(last, to));
      this.words.forEach((each, at) => (each.tabIndex = at === next ? 0 : -1));
      this.words[next].focus();
    });
  }

  pin(i, at) {
    this.pinned = i;
    this.words.forEach((each, j) => each.setAttribute("aria-pressed", String(j === i)));
    if (i === null) this.hide();
    else this.look(at);
  }

  hide(all = false) {
    this.looking = null;
    if (all && this.words?.length && this.pinned !== null) this.pin(null);
    if (this.pinned !== null && this.words) {
      this.look(this.pinned);
      return;
    }
    this.canvas.classList.remove("on");
    this.words?.forEach((each) => each.classList.remove("lit"));
    this.note.textContent = "";
  }

  async look(i) {
    if (i < 0 || this.result?.labels) return;
    this.looking = i;
    const text = this.shown;
    this.words.forEach((each, j) => each.classList.toggle("lit", j === i));
    let found;
    try {
      if (!this.explanations.has(text)) this.note.textContent = "Finding where the model looked";
      found = await this.explanation(text);
    } catch (error) {
      if (this.looking === i) this.note.textContent = error.message;
      return;
    }
    if (this.looking !== i || this.shown !== text) return;
    // Words of the prompt have no explanation.
    const word = found.words[i - (this.words.length - found.words.length)];
    if (!word) {
      this.canvas.classList.remove("on");
      this.note.textContent = `“${this.words[i].textContent}” is part of the prompt.`;
      return;
    }
    draw(this.canvas, this.image, { grid: found.grid, seen: found.seen, map: word.map });
    this.canvas.classList.add("on");
    this.note.textContent = this.about(found, word, this.words[i].textContent);
  }

  about(found, word, text) {
    const place = where(found.grid, word.map);
    const said = [`${text}: ${percent(Math.exp(word.logprob))} likely; the model looked at the ${place}`];
    const others = (found.steps[word.tokens[0]] ?? [])
      .filter((token) => token.text.trim() && !text.startsWith(token.text.trim()))
      .slice(0, 3)
      .map((token) => `${token.text.trim()} ${percent(token.probability)}`);
    if (others.length) said.push(`Other likely words: ${others.join(", ")}`);
    return `${said.join(". ")}.`;
  }

  explanation(text) {
    if (!this.explanations.has(text)) {
      const { prompt } = this.options;
      const fields = { caption: text, ...(prompt && { prompt }) };
      const asked = ask("v1/explain", { method: "POST", body: form(this.file, fields) });
      asked.catch(() => this.explanations.delete(text));
      this.explanations.set(text, asked);
    }
    return this.explanations.get(text);
  }

  remove() {
    URL.revokeObjectURL(this.url);
    this.part.remove();
  }
}
