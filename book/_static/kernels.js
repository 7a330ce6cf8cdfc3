// The sampling points of SADNet's kernels at the pointer. Without this script a still picture is shown.
document.addEventListener("DOMContentLoaded", () => {
  const HALF_CELLS = 4; // half the width of a small picture
  const DOT = "240, 228, 66";
  const RIM = "213, 94, 0";
  const AXIS = "#0072b2";
  const GROUND = "#d9dcd6";

  for (const viewer of document.querySelectorAll('[data-viewer="kernels"]')) {
    open(viewer).catch((error) => console.warn("The kernels could not be read; the still picture stays.", error));
  }

  async function open(viewer) {
    const packed = JSON.parse(viewer.querySelector("script").textContent);
    const photograph = viewer.querySelector(".kernels-ground");
    await photograph.decode();
    start(viewer, photograph, packed, await unpack(packed));
  }

  // The arrays of every scale, coarse to fine: bytes as repro.viewers.pack wrote them.
  async function unpack(packed) {
    const deflated = Uint8Array.from(atob(packed.data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([deflated]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = await new Response(stream).arrayBuffer();
    const plane = packed.rows * packed.columns;
    let at = 0;
    const take = (kind, planes) => {
      const array = new kind(bytes, at, planes * plane);
      at += planes * plane;
      return array;
    };
    return packed.scales.map((scale) => ({
      ...scale,
      offset: take(Int8Array, 2 * packed.points),
      mask: take(Uint8Array, packed.points),
      edge: take(Int8Array, 2),
      region: take(Uint8Array, 1),
    }));
  }

  function start(viewer, photograph, packed, scales) {
    const { rows, columns, pitch_px: pitch, points } = packed;
    const { naturalWidth: width, naturalHeight: height } = photograph;
    const plane = rows * columns;
    const canvas = viewer.querySelector(".kernels-photo");
    const status = viewer.querySelector(".viewer-status");
    const find = (kind, scale) => viewer.querySelector(`${kind}[data-cell="${scale.cell_px}"]`);
    let place = { row: rows >> 1, column: columns >> 1 };
    let chosen = scales[scales.length - 2];
    let held = false;
    let waiting = false;
    let telling = 0;

    // The kernel of one scale at the position: its middle in pixels, its points in cells from there, their weights.
    function kernel(scale) {
      const here = place.row * columns + place.column;
      const middle = (index) => (Math.floor((index * pitch + (pitch >> 1)) / scale.cell_px) + 0.5) * scale.cell_px;
      const dots = [];
      for (let k = 0; k < points; k++) {
        const tap = k % 9; // row by row of the 3x3 kernel, one deform group after the other
        dots.push({
          y: scale.offset[2 * k * plane + here] * scale.step_cells + Math.floor(tap / 3) - 1,
          x: scale.offset[(2 * k + 1) * plane + here] * scale.step_cells + (tap % 3) - 1,
          weight: scale.mask[k * plane + here] / packed.modulation_steps,
        });
      }
      return { scale, dots, x: middle(place.column), y: middle(place.row), ...measure(scale, dots, here) };
    }

    // The numbers of repro.offsets: mean distance, anisotropy, and cos 2(a - b) between spread and edge.
    function measure(scale, dots, here) {
      let [sum, y, x, yy, xy, xx, far] = [0, 0, 0, 0, 0, 0, 0];
      for (const dot of dots) {
        sum += dot.weight;
        y += dot.weight * dot.y;
        x += dot.weight * dot.x;
        yy += dot.weight * dot.y * dot.y;
        xy += dot.weight * dot.y * dot.x;
        xx += dot.weight * dot.x * dot.x;
        far += dot.weight * Math.hypot(dot.y, dot.x);
      }
      y /= sum;
      x /= sum;
      yy = yy / sum - y * y;
      xy = xy / sum - y * x;
      xx = xx / sum - x * x;
      const length = Math.hypot(xx - yy, 2 * xy);
      const axis = length > 1e-9 * (xx + yy) ? [(xx - yy) / length, (2 * xy) / length] : [0, 0];
      const edge = [scale.edge[here] / 127, scale.edge[plane + here] / 127];
      const directed = Math.hypot(...axis) > 0.5 && Math.hypot(...edge) > 0.5;
      return {
        axis,
        edge,
        long: Math.sqrt((xx + yy + length) / 2),
        radius_px: (far / sum) * scale.cell_px,
        anisotropy: length / (xx + yy),
        alignment: directed ? axis[0] * edge[0] + axis[1] * edge[1] : NaN,
        region: packed.regions[scale.region[here]],
      };
    }

    function prepare(target, sides) {
      const density = window.devicePixelRatio || 1;
      const shown = target.clientWidth;
      target.width = Math.round(shown * density);
      target.height = Math.round(shown * density * sides);
      const context = target.getContext("2d");
      context.setTransform(density, 0, 0, density, 0, 0);
      return { context, shown };
    }

    function dot(context, x, y, weight) {
      context.beginPath();
      context.arc(x, y, 1.4 + 2.2 * weight, 0, 2 * Math.PI);
      context.fillStyle = `rgba(${DOT}, ${0.15 + 0.6 * weight})`;
      context.strokeStyle = `rgba(${RIM}, ${0.25 + 0.75 * weight})`;
      context.lineWidth = 1.1;
      context.fill();
      context.stroke();
    }

    function line(context, middle, axis, half, colour, dashes) {
      const angle = Math.atan2(axis[1], axis[0]) / 2;
      const [x, y] = [Math.cos(angle) * half, Math.sin(angle) * half];
      for (const [ink, thick] of [["#ffffffcc", 4], [colour, 2]]) {
        context.beginPath();
        context.setLineDash(dashes);
        context.moveTo(middle - x, middle - y);
        context.lineTo(middle + x, middle + y);
        context.strokeStyle = ink;
        context.lineWidth = thick;
        context.stroke();
      }
      context.setLineDash([]);
    }

    function drawPhotograph(one) {
      const { context, shown } = prepare(canvas, height / width);
      const scale = shown / width;
      context.imageSmoothingEnabled = true;
      context.drawImage(photograph, 0, 0, shown, height * scale);
      const half = HALF_CELLS * one.scale.cell_px * scale;
      for (const [ink, thick] of [["#000000aa", 3], ["#fff", 1.2]]) {
        context.strokeStyle = ink;
        context.lineWidth = thick;
        context.strokeRect(one.x * scale - half, one.y * scale - half, 2 * half, 2 * half);
      }
      for (const { x, y, weight } of one.dots) {
        dot(context, (one.x + x * one.scale.cell_px) * scale, (one.y + y * one.scale.cell_px) * scale, weight);
      }
    }

    function drawZoom(one) {
      const figure = find("figure", one.scale);
      const { context, shown } = prepare(figure.querySelector("canvas"), 1);
      const cell = shown / (2 * HALF_CELLS);
      const scale = cell / one.scale.cell_px;
      const middle = shown / 2;
      context.fillStyle = GROUND; // outside the photograph
      context.fillRect(0, 0, shown, shown);
      context.imageSmoothingEnabled = scale < 3;
      context.drawImage(photograph, middle - one.x * scale, middle - one.y * scale, width * scale, height * scale);
      for (const [ink, thick] of [["#fff", 2.4], ["#000", 1]]) {
        context.strokeStyle = ink;
        context.lineWidth = thick;
        for (const y of [-1, 0, 1]) {
          for (const x of [-1, 0, 1]) context.strokeRect(middle + x * cell - 3, middle + y * cell - 3, 6, 6);
        }
      }
      for (const { x, y, weight } of one.dots) dot(context, middle + x * cell, middle + y * cell, weight);
      if (one.region === "edge") line(context, middle, one.edge, 3 * cell, "#000", [5, 4]);
      if (Math.hypot(...one.axis) > 0.5) line(context, middle, one.axis, 1.5 * one.long * cell, AXIS, []);
      const outside = one.dots.filter(({ x, y }) => Math.max(Math.abs(x), Math.abs(y)) > HALF_CELLS).length;
      const beyond = outside ? `, ${outside} of ${points} points outside` : "";
      figure.querySelector("canvas").setAttribute(
        "aria-label",
        `scale ${Math.log2(one.scale.cell_px) + 1}: ${points} sampling points, spread ${one.radius_px.toFixed(2)} pixels${beyond}`,
      );
      figure.querySelector("figcaption").textContent =
        `scale ${Math.log2(one.scale.cell_px) + 1}, ${one.scale.cell_px} px a cell${outside ? `, ${outside} outside` : ""}`;
      figure.classList.toggle("is-chosen", one.scale === chosen);
    }

    function format(value) {
      return Number.isNaN(value) ? "–" : value.toFixed(2).replace(/^-0\.00$/, "0.00").replace("-", "−");
    }

    function write(one) {
      const row = find("tr", one.scale);
      for (const cell of row.querySelectorAll("td")) {
        const value = one[cell.dataset.number];
        cell.textContent = typeof value === "string" ? value || "between" : format(value);
        cell.classList.toggle("is-aside", cell.dataset.number === "alignment" && one.region !== "edge");
      }
      row.classList.toggle("is-chosen", one.scale === chosen);
      find("button", one.scale).setAttribute("aria-pressed", one.scale === chosen);
    }

    function draw() {
      waiting = false;
      if (!canvas.clientWidth) return;
      const kernels = scales.map(kernel);
      const one = kernels[scales.indexOf(chosen)];
      drawPhotograph(one);
      for (const each of kernels) {
        drawZoom(each);
        write(each);
      }
      // Said aloud once the position rests, not at every step on the way.
      clearTimeout(telling);
      telling = setTimeout(() => {
        const aligned = Number.isNaN(one.alignment) ? "" : `, alignment ${format(one.alignment)}`;
        status.textContent =
          `Position x = ${one.x}, y = ${one.y} px, scale ${Math.log2(chosen.cell_px) + 1}: ` +
          `spread ${one.radius_px.toFixed(2)} px${aligned}${held ? "; held, click to let go" : ""}.`;
      }, 300);
    }

    function redraw() {
      if (!waiting) requestAnimationFrame(draw);
      waiting = true;
    }

    function move(row, column) {
      const clamp = (value, count) => Math.min(Math.max(value, 0), count - 1);
      place = { row: clamp(row, rows), column: clamp(column, columns) };
      redraw();
    }

    function follow(event) {
      const box = canvas.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * width;
      const y = ((event.clientY - box.top) / box.height) * height;
      move(Math.floor(y / pitch), Math.floor(x / pitch));
    }

    // A mouse leads without a button until a click holds the position; a finger leads while it touches.
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse" ? !held || event.buttons : event.buttons) follow(event);
    });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      canvas.focus({ preventScroll: true });
      if (event.pointerType === "mouse") held = !held;
      follow(event);
      event.preventDefault();
    });

    function press(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const arrows = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      const wanted = scales.find((scale) => String(Math.log2(scale.cell_px) + 1) === event.key);
      if (event.key in arrows) {
        const [row, column] = arrows[event.key].map((step) => step * (event.shiftKey ? 4 : 1));
        held = true; // or the next tremble of the mouse takes the position back
        move(place.row + row, place.column + column);
      } else if (wanted) choose(wanted);
      else return;
      event.preventDefault();
      event.stopPropagation(); // the arrows would leave the page
    }

    canvas.addEventListener("keydown", press);
    // A mouse over the photograph is enough, where nothing else has the keys. Before the theme sees them.
    const leads = (event) => event.target === document.body && canvas.matches(":hover");
    document.addEventListener("keydown", (event) => leads(event) && press(event), { capture: true });

    function choose(scale) {
      chosen = scale;
      redraw();
    }

    for (const scale of scales) {
      find("button", scale).addEventListener("click", () => choose(scale));
      find("figure", scale).addEventListener("click", () => choose(scale));
    }

    // Begin at the edge nearest to the middle, one that is an edge at every scale.
    const edge = packed.regions.indexOf("edge");
    const shared = [...Array(plane).keys()].filter((here) => scales.every((scale) => scale.region[here] === edge));
    const away = (here) => Math.hypot(Math.floor(here / columns) - rows / 2, (here % columns) - columns / 2);
    shared.sort((one, other) => away(one) - away(other));
    if (shared.length) place = { row: Math.floor(shared[0] / columns), column: shared[0] % columns };

    viewer.querySelector(".viewer-live").hidden = false;
    viewer.classList.add("is-live");
    new ResizeObserver(redraw).observe(canvas);
  }
});
