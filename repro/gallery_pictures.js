// Pictures of one size side by side. A click on any of them sets the position, which all of them mark.
const SMALL_PX = 200; // pictures that are shown larger than they are: in squares, not blurred

function render({ model, el }) {
  const row = document.createElement("div");
  row.className = "gallery-pictures";
  el.append(row);
  const marks = [];

  function show() {
    marks.length = 0;
    row.replaceChildren(...model.get("pictures").map(makeFigure));
    mark();
  }

  function makeFigure(picture) {
    const [figure, frame, image, ring, caption] = ["figure", "div", "img", "span", "figcaption"].map((tag) =>
      document.createElement(tag),
    );
    frame.className = "gallery-frame";
    ring.className = "gallery-mark";
    image.src = picture.address;
    image.alt = picture.alt;
    image.draggable = false;
    image.classList.toggle("is-small", Math.max(...model.get("size")) < SMALL_PX);
    caption.textContent = [picture.title, picture.caption].filter(Boolean).join(": ");
    frame.addEventListener("click", (event) => choose(event, image.getBoundingClientRect()));
    marks.push(ring);
    frame.append(image, ring);
    figure.append(frame, caption);
    return figure;
  }

  function choose(event, box) {
    if (!model.get("marked")) return;
    const [height, width] = model.get("size");
    const count = (at, length, pixels) => Math.min(Math.max(Math.floor((at / length) * pixels), 0), pixels - 1);
    model.set("position", [
      count(event.clientY - box.top, box.height, height),
      count(event.clientX - box.left, box.width, width),
    ]);
    model.save_changes();
  }

  function mark() {
    const [y, x] = model.get("position");
    const [height, width] = model.get("size");
    row.classList.toggle("is-marked", model.get("marked"));
    for (const ring of marks) {
      ring.hidden = !model.get("marked");
      ring.style.top = `${((y + 0.5) / height) * 100}%`;
      ring.style.left = `${((x + 0.5) / width) * 100}%`;
    }
  }

  model.on("change:pictures", show);
  model.on("change:position change:size change:marked", mark);
  show();
}

export default { render };
