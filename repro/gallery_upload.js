// A file of the reader's for the kernel, in pieces: a server of Jupyter refuses messages of more than 10 MiB.
const PIECE = 4 * 2 ** 20;

function render({ model, el }) {
  const label = document.createElement("label");
  const name = document.createElement("span");
  const input = document.createElement("input");
  label.className = "gallery-upload";
  name.textContent = model.get("label");
  input.type = "file";
  label.append(name, input);
  el.append(label);

  input.addEventListener("change", async () => {
    const file = input.files[0];
    if (!file) return;
    const about = { name: file.name, bytes: file.size };
    if (file.size > model.get("most_bytes")) {
      model.send({ ...about, start: -1 });
    } else {
      const bytes = await file.arrayBuffer();
      for (let start = 0; start === 0 || start < bytes.byteLength; start += PIECE) {
        model.send({ ...about, start }, undefined, [bytes.slice(start, start + PIECE)]);
      }
    }
    input.value = ""; // the same file may be chosen once more
  });
}

export default { render };
