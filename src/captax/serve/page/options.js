// The controls, read as the options of a request.

const form = document.getElementById("form");
const field = (name) => document.getElementById(name);
const complaint = field("complaint");

let captioner = true;

export function fit(model) {
  captioner = model.kind === "captioner";
  for (const each of document.querySelectorAll(".captioner-only")) each.hidden = !captioner;
  if (!captioner) {
    field("count-label").textContent = "Labels per picture";
    field("again").textContent = "Label again";
  }
  // The checkpoint's own settings are the defaults here too.
  for (const name of ["num_beams", "max_new_tokens"]) {
    if (model.defaults[name]) field(name).defaultValue = field(name).value = model.defaults[name];
  }
  if (model.defaults.do_sample) field("mode-sample").checked = true;
  show();
}

// The options, or null if one of them is not valid; then the page says which.
export function chosen() {
  const wrong = [...form.elements].find((each) => !each.closest("[hidden]") && !each.validity.valid);
  complaint.textContent = "";
  for (const each of form.querySelectorAll("[aria-invalid]")) each.removeAttribute("aria-invalid");
  if (wrong) {
    const name = wrong.labels[0].firstChild.textContent.trim();
    complaint.textContent = `${name}: ${wrong.validationMessage}`;
    wrong.setAttribute("aria-invalid", "true");
    document.getElementById("options").open = true;
    return null;
  }
  const number = (name) => Number(field(name).value);
  if (!captioner) return { top: number("count") };
  const shared = {
    num_return_sequences: number("count"),
    max_new_tokens: number("max_new_tokens"),
    ...(field("prompt").value.trim() && { prompt: field("prompt").value.trim() }),
  };
  if (field("mode-sample").checked) {
    const names = ["temperature", "top_p", "top_k", "seed"];
    const given = Object.fromEntries(names.map((name) => [name, number(name)]));
    return { ...shared, do_sample: true, ...given };
  }
  // A search finds at most one caption for each beam.
  return { ...shared, do_sample: false, num_beams: Math.max(number("num_beams"), number("count")) };
}

function show() {
  const mode = field("mode-sample").checked ? "sample" : "search";
  for (const each of form.querySelectorAll("[data-mode]")) {
    each.hidden = each.dataset.mode !== mode || !captioner;
  }
  for (const each of form.querySelectorAll("output")) {
    const input = field(each.htmlFor.value);
    each.value = Number(input.value).toFixed(input.id === "top_p" ? 2 : 1);
  }
}

form.addEventListener("input", show);
form.addEventListener("reset", () => {
  complaint.textContent = "";
  setTimeout(show);
});
show();
