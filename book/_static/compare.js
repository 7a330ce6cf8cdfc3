// Two versions of a photograph under a divider, zoomable. Without this script all versions stand side by side.
document.addEventListener("DOMContentLoaded", () => {
  for (const viewer of document.querySelectorAll('[data-viewer="compare"]')) {
    const pictures = [...viewer.querySelectorAll(".compare-static img")];
    Promise.all(pictures.map((picture) => picture.decode())).then(
      () => start(viewer, pictures),
      (error) => console.warn("The pictures could not be read; all of them are shown instead.", error),
    );
  }

  function start(viewer, pictures) {
    const stage = viewer.querySelector(".compare-stage");
    const canvas = stage.querySelector("canvas");
    const handle = stage.querySelector(".compare-handle");
    const choices = Object.fromEntries([...viewer.querySelectorAll("select")].map((field) => [field.name, field]));
    const tags = Object.fromEntries([...stage.querySelectorAll(".viewer-tag")].map((tag) => [tag.dataset.side, tag]));
    const { naturalWidth: width, naturalHeight: height } = pictures[0];
    const most = 16; // screen widths of the photograph
    const view = { zoom: 1, x: width / 2, y: height / 2 }; // the middle, in pixels of the photograph
    let cut = 0.5; // share of the stage that lies left of the divider
    let waiting = false;

    function draw() {
      waiting = false;
      const density = window.devicePixelRatio || 1;
      const shown = stage.clientWidth;
      if (!shown) return;
      canvas.width = Math.round(shown * density);
      canvas.height = Math.round((shown * height * density) / width);
      const context = canvas.getContext("2d");
      const scale = (canvas.width / width) * view.zoom;
      const left = canvas.width / 2 - view.x * scale;
      const top = canvas.height / 2 - view.y * scale;
      context.imageSmoothingEnabled = scale < 3; // enlarged further, pixels are seen as squares
      const border = Math.round(cut * canvas.width);
      for (const [side, from, to] of [["a", 0, border], ["b", border, canvas.width]]) {
        context.save();
        context.beginPath();
        context.rect(from, 0, to - from, canvas.height);
        context.clip();
        context.drawImage(pictures[choices[side].value], left, top, width * scale, height * scale);
        context.restore();
      }
      handle.style.left = `${cut * 100}%`;
      for (const side of ["a", "b"]) tags[side].textContent = pictures[choices[side].value].dataset.label;
      const percent = Math.round(cut * 100);
      stage.setAttribute("aria-valuenow", percent);
      stage.setAttribute(
        "aria-valuetext",
        `${percent} percent ${tags.a.textContent}, the rest ${tags.b.textContent}, enlarged ${view.zoom.toFixed(1)} times`,
      );
      // At full view a finger that moves up or down scrolls the page; enlarged, it moves the photograph.
      stage.style.touchAction = view.zoom > 1 ? "none" : "pan-y";
    }

    function redraw() {
      const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
      cut = clamp(cut, 0, 1);
      view.zoom = clamp(view.zoom, 1, most);
      view.x = clamp(view.x, width / 2 / view.zoom, width - width / 2 / view.zoom);
      view.y = clamp(view.y, height / 2 / view.zoom, height - height / 2 / view.zoom);
      if (!waiting) requestAnimationFrame(draw);
      waiting = true;
    }

    // Enlarges about a place of the stage (shares of its sides), which stays where it is.
    function zoom(factor, place = { x: 0.5, y: 0.5 }) {
      const before = view.zoom;
      view.zoom = Math.min(Math.max(before * factor, 1), most);
      const kept = 1 / before - 1 / view.zoom;
      view.x += (place.x - 0.5) * width * kept;
      view.y += (place.y - 0.5) * height * kept;
      redraw();
    }

    function pan(x, y) {
      view.x -= (x * width) / view.zoom;
      view.y -= (y * height) / view.zoom;
      redraw();
    }

    function whole() {
      view.zoom = 1;
      redraw();
    }

    function locate(event) {
      const box = canvas.getBoundingClientRect();
      return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    }

    const fingers = new Map();
    let drags = "";
    let began; // where the first finger, or the mouse, came down, and where the divider was then

    stage.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      stage.setPointerCapture(event.pointerId);
      stage.focus({ preventScroll: true });
      const place = locate(event);
      fingers.set(event.pointerId, place);
      if (fingers.size === 1) began = { ...place, cut };
      const near = Math.abs(place.x - cut) * stage.clientWidth < 24;
      drags = near || view.zoom === 1 ? "divider" : "photograph";
      if (fingers.size === 1 && event.pointerType === "mouse" && drags === "divider") {
        cut = place.x;
        redraw();
      }
      event.preventDefault();
    });

    stage.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const place = locate(event);
      if (fingers.size === 2) {
        const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, finger]) => finger);
        const apart = (finger) => Math.hypot((finger.x - other.x) * width, (finger.y - other.y) * height);
        const middle = (finger) => ({ x: (finger.x + other.x) / 2, y: (finger.y + other.y) / 2 });
        zoom(apart(place) / Math.max(apart(before), 1), middle(before));
        pan(middle(place).x - middle(before).x, middle(place).y - middle(before).y);
      } else if (drags === "divider") {
        // A finger that goes up or down is about to scroll the page, and leaves the divider where it is.
        const across = Math.abs(place.x - began.x) * width > Math.abs(place.y - began.y) * height;
        if (event.pointerType === "mouse" || across || cut !== began.cut) cut = place.x;
        redraw();
      } else {
        pan(place.x - before.x, place.y - before.y);
      }
      fingers.set(event.pointerId, place);
    });

    for (const end of ["pointerup", "pointercancel"]) {
      stage.addEventListener(end, (event) => {
        fingers.delete(event.pointerId);
        if (end === "pointercancel" && drags === "divider") {
          cut = began.cut; // the page scrolls after all
          redraw();
        }
        if (view.zoom > 1) drags = "photograph"; // the finger that stays after two does not make the divider jump
      });
    }

    // A page that is being scrolled is not caught by a picture on its way: the wheel zooms once it was clicked.
    stage.addEventListener(
      "wheel",
      (event) => {
        if (document.activeElement !== stage && !event.ctrlKey) return;
        if (event.deltaY > 0 && view.zoom === 1 && !event.ctrlKey) return;
        event.preventDefault();
        zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), locate(event));
      },
      { passive: false },
    );

    stage.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const jumps = { Home: -1, End: 1, PageUp: 0.1, PageDown: -0.1 };
      if (event.key in arrows) {
        const [x, y] = arrows[event.key];
        if (event.shiftKey) {
          pan(-x / 8, -y / 8);
        } else {
          cut += (x - y) / 50;
          redraw();
        }
      } else if (event.key in jumps) {
        cut += jumps[event.key];
        redraw();
      } else if (event.key === "+" || event.key === "=") zoom(1.5);
      else if (event.key === "-" || event.key === "_") zoom(1 / 1.5);
      else if (event.key === "0") whole();
      else return;
      event.preventDefault();
      event.stopPropagation(); // the arrows would leave the page
    });

    for (const field of Object.values(choices)) field.addEventListener("input", redraw);
    const actions = { in: () => zoom(1.5), out: () => zoom(1 / 1.5), whole };
    for (const button of viewer.querySelectorAll("button")) button.addEventListener("click", actions[button.name]);

    viewer.querySelector(".viewer-live").hidden = false;
    viewer.classList.add("is-live");
    new ResizeObserver(redraw).observe(stage);
  }
});
