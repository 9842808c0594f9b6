// Captions taken away: to the clipboard, or as a file.

export function asText(results) {
  return results.map((each) => `${each.name}\t${each.caption}\n`).join("");
}

export function asJsonl(results) {
  return results.map((each) => `${JSON.stringify(each)}\n`).join("");
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https, or where the browser refuses.
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "visually-hidden";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

export function download(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
