// The click page: draws an image with boxes and tells Python what the user does. One file for the notebook widget (anywidget
// calls `render`) and for `python -m dealkit click` (the page itself mounts, at the end). A `link` joins it to Python:
//   send(event)   picture(index, box) -> promise of a Blob, of the whole image without a box
//   listen(f): f(view) from now on   save(what): download an export

const STYLE = `
.dk { --line: var(--jp-border-color1, #bbb); color: var(--jp-ui-font-color1, #222) }
.dk { font: 13px system-ui, sans-serif; outline: none }
.dk-bar { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; margin: 4px 0 }
.dk button, .dk input { font: inherit; color: inherit }
.dk button { padding: 2px 9px; border: 1px solid var(--line); border-radius: 4px; background: transparent; cursor: pointer }
.dk button:hover:enabled { background: rgba(128, 128, 128, 0.18) }
.dk button:disabled { opacity: 0.4; cursor: default }
.dk button[aria-pressed="true"] { box-shadow: inset 0 0 0 2px currentColor; font-weight: 600 }
.dk-kind i { display: inline-block; width: 10px; height: 10px; margin-right: 5px; border-radius: 2px; border: 1px solid #0006 }
.dk-name { width: 9em; padding: 2px 5px; border: 1px solid var(--line); border-radius: 4px; background: transparent }
.dk input[type="range"] { width: 90px }
.dk-space { flex: 1 }
.dk-view { position: relative; background: #444; overflow: hidden; border-radius: 4px }
.dk-view canvas { display: block; touch-action: none; cursor: crosshair }
.dk-status { min-height: 1.4em; padding: 0 2px }
.dk-status.dk-warn { color: #c4500c; font-weight: 600 }
.dk-help { opacity: 0.65; font-size: 12px }
.dk[data-busy="1"] .dk-status::before { content: ""; display: inline-block; width: 10px; height: 10px; margin-right: 7px;
  border: 2px solid currentColor; border-top-color: transparent; border-radius: 50%; animation: dk-turn 0.8s linear infinite }
@keyframes dk-turn { to { transform: rotate(1turn) } }`;

const HELP = "click: this · right or shift click: not this · drag: move · wheel: zoom · alt and drag: box round an example";
const REVIEW_HELP = "click a box: right · right or shift click: wrong · again: take back · alt and drag: add a box";

function make(tag, fields = {}, ...children) {
  const { dataset, ...others } = fields;
  const node = Object.assign(document.createElement(tag), others);
  Object.assign(node.dataset, dataset || {});
  node.append(...children);
  return node;
}

function mount(root, link) {
  let state = null; // the view that Python sent last
  let bitmap = null; // its picture
  let detail = null; // a part of it in full resolution: bitmap and box
  let later = 0; // timer of the next detail
  let shown = -1; // index of the image of the picture
  let asked = -1; // index of the image that Python was told to read
  let mode = "click";
  let view = { scale: 1, x: 0, y: 0 }; // canvas pixel = image pixel x scale + x or y
  let fitted = true;
  let drag = null;
  let took = null; // milliseconds from the last event to its drawing
  const pending = new Map(); // id of an event -> when it was sent

  const button = (text, title, act, name) =>
    make("button", { type: "button", textContent: text, title, onclick: act, dataset: { do: name } });
  const kinds = make("span", { className: "dk-bar" });
  const name = make("input", { className: "dk-name", title: "name of the kind", maxLength: 60 });
  const slider = make("input", { type: "range", max: 0.99, step: 0.01, title: "lowest score shown" });
  const score = make("span", { className: "dk-score" });
  const place = make("span", { className: "dk-place" });
  const status = make("div", { className: "dk-status", role: "status" });
  const help = make("div", { className: "dk-help" });
  const canvas = make("canvas");
  const holder = make("div", { className: "dk-view" }, canvas);
  const modes = ["click", "box", "review"].map((m) => button(m, `${m} with the left button`, () => set_mode(m), m));
  const undo = button("undo", "take back the last change (z)", () => send({ do: "undo" }), "undo");
  const clear = button("clear", "forget all of this kind in this image", () => send({ do: "clear" }), "clear");
  const move = (by) => () => send({ do: "open", index: state.image.index + by });
  const before = button("◀", "previous image (left arrow)", move(-1), "before");
  const after = button("▶", "next image, the same kinds (right arrow)", move(1), "after");
  const save = (what) => button(what, `save as ${what}`, () => link.save(what), `save-${what}`);
  const space = make("span", { className: "dk-space" });
  const first = make("div", { className: "dk-bar" }, kinds, name, space, before, place, after);
  const fit_button = button("fit", "whole image (f)", () => { fit(); draw(); }, "fit");
  const second = make("div", { className: "dk-bar" }, ...modes, "score", slider, score, undo, clear, fit_button);
  second.append(make("span", { className: "dk-space" }), "save", ...["coco", "csv", "embedding"].map(save));
  root.classList.add("dk");
  root.tabIndex = 0;
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab's keys are not ours
  root.replaceChildren(make("style", { textContent: STYLE }), first, second, holder, status, help);

  function send(event) {
    const id = Math.random().toString(36).slice(2);
    pending.set(id, performance.now());
    link.send({ ...event, id });
    refresh();
  }

  async function receive(next) {
    const sent = pending.get(next.done);
    pending.delete(next.done);
    state = next;
    if (state.image.index !== shown) {
      shown = state.image.index;
      bitmap = detail = null;
      const wanted = shown;
      const loaded = await createImageBitmap(await link.picture(shown));
      if (wanted !== shown) return;
      bitmap = loaded;
      fit();
    }
    if (!state.read && asked !== shown) {
      asked = shown;
      send({ do: "read" });
    } else if (state.read) asked = -1;
    refresh();
    draw();
    if (sent !== undefined) {
      took = performance.now() - sent;
      root.dataset.took = took.toFixed(1);
      refresh();
    }
  }

  function set_mode(m) {
    mode = m;
    refresh();
    draw();
  }

  const holds = (kind, row) => row[5] === 1 || (row[5] === 0 && (row[6] === 1 || row[4] >= kind.threshold));
  const visible = (kind, row) => holds(kind, row) || (row[5] === -1 && mode === "review");
  const counted = (kind) => kind.rows.filter((row) => holds(kind, row)).length;

  function refresh() {
    if (!state) return;
    const kind = state.kinds[state.kind];
    const chips = state.kinds.map((k, index) => {
      const chip = make("button", { type: "button", className: "dk-kind", onclick: () => send({ do: "choose_kind", index }) });
      chip.append(make("i", { style: `background:${k.colour}` }), `${k.name} · ${counted(k)}`);
      chip.setAttribute("aria-pressed", index === state.kind);
      return chip;
    });
    kinds.replaceChildren(...chips, button("+", "another kind", () => send({ do: "add_kind", name: "" }), "add"));
    if (document.activeElement !== name && root.getRootNode().activeElement !== name) name.value = kind.name;
    slider.min = state.least;
    if (!slider.matches(":active")) slider.value = kind.threshold;
    score.textContent = kind.threshold.toFixed(2);
    place.textContent = `${state.image.index + 1} / ${state.image.of}  ${state.image.name}`;
    before.hidden = after.hidden = state.image.of < 2;
    before.disabled = state.image.index === 0;
    after.disabled = state.image.index + 1 >= state.image.of;
    undo.disabled = !state.undo;
    for (const b of modes) b.setAttribute("aria-pressed", b.dataset.do === mode);
    const busy = pending.size > 0;
    root.dataset.busy = busy ? 1 : 0;
    root.dataset.boxes = counted(kind);
    const estimate = kind.count === null ? "" : ` · about ${kind.count.toFixed(0)} by density`;
    const time = took === null ? "" : ` · ${took.toFixed(0)} ms`;
    const plain = kind.rows.length || kind.clicks.length ? `${counted(kind)} boxes${estimate}${time}` : "click on an object";
    const warn = state.message || (kind.nothing_certain ? "nothing certain here: undo (z), then click on the middle of an object" : "");
    status.textContent = busy && !state.read ? "reading the image …" : busy ? "…" : warn ? `${warn} · ${plain}` : plain;
    status.classList.toggle("dk-warn", Boolean(warn) && !busy);
    help.textContent = mode === "review" ? REVIEW_HELP : HELP;
  }

  function fit() {
    const { width, height } = state.image;
    const w = Math.max(holder.clientWidth, 200);
    const room = page ? window.innerHeight - holder.offsetTop - 60 : window.innerHeight * 0.65;
    const h = Math.round(Math.min(Math.max((w * height) / width, 160), Math.max(room, 240)));
    const ratio = window.devicePixelRatio || 1;
    Object.assign(canvas, { width: Math.round(w * ratio), height: Math.round(h * ratio) });
    Object.assign(canvas.style, { width: `${w}px`, height: `${h}px` });
    const scale = Math.min(w / width, h / height);
    view = { scale, x: (w - width * scale) / 2, y: (h - height * scale) / 2 };
    fitted = true;
    sharpen();
  }

  // Where the view is zoomed in beyond the picture, fetches what it shows in full resolution.
  function sharpen() {
    clearTimeout(later);
    later = setTimeout(async () => {
      const { width, height } = state.image;
      const wanted = shown;
      const ratio = window.devicePixelRatio || 1;
      if (!bitmap || bitmap.width >= width || view.scale * ratio < (1.2 * bitmap.width) / width) return;
      const low = pixel([0, 0]).map((v) => Math.max(Math.floor(v), 0));
      const [c, d] = pixel([canvas.clientWidth, canvas.clientHeight]);
      const box = [...low, Math.min(Math.ceil(c), width), Math.min(Math.ceil(d), height)];
      if (box[2] <= box[0] || box[3] <= box[1]) return;
      const part = await createImageBitmap(await link.picture(wanted, box));
      if (wanted === shown) detail = { part, box };
      draw();
    }, 150);
  }

  const on_screen = ([x1, y1, x2, y2]) =>
    [x1 * view.scale + view.x, y1 * view.scale + view.y, (x2 - x1) * view.scale, (y2 - y1) * view.scale];

  function outline(pen, boxes, colour, width, dash = []) {
    if (!boxes.length) return;
    pen.beginPath();
    for (const box of boxes) pen.rect(...on_screen(box));
    for (const [style, line] of [["rgba(0,0,0,0.5)", width + 1.6], [colour, width]]) {
      Object.assign(pen, { strokeStyle: style, lineWidth: line });
      pen.setLineDash(style === colour ? dash : []);
      pen.stroke();
    }
    pen.setLineDash([]);
  }

  function mark(pen, [x, y, label]) {
    const [u, v, r] = [x * view.scale + view.x, y * view.scale + view.y, 7];
    const arms = label ? [[-r, 0, r, 0], [0, -r, 0, r]] : [[-r, -r, r, r], [-r, r, r, -r]];
    pen.beginPath();
    for (const [a, b, c, d] of arms) {
      pen.moveTo(u + a, v + b);
      pen.lineTo(u + c, v + d);
    }
    for (const [style, line] of [["#000", 4.5], [label ? "#fff" : "#ff5a36", 2.2]]) {
      Object.assign(pen, { strokeStyle: style, lineWidth: line });
      pen.stroke();
    }
  }

  function draw() {
    if (!state || !bitmap) return;
    const pen = canvas.getContext("2d");
    const ratio = window.devicePixelRatio || 1;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingEnabled = view.scale < 3;
    pen.drawImage(bitmap, ...on_screen([0, 0, state.image.width, state.image.height]));
    if (detail) pen.drawImage(detail.part, ...on_screen(detail.box));
    canvas.dataset.detail = detail ? 1 : 0;
    state.kinds.forEach((kind, n) => {
      const rows = kind.rows.filter((row) => visible(kind, row));
      const wide = n === state.kind ? 2 : 1.3;
      outline(pen, rows.filter((row) => row[5] === 0), kind.colour, wide);
      const right = rows.filter((row) => row[5] === 1);
      pen.fillStyle = `${kind.colour}40`;
      for (const row of right) pen.fillRect(...on_screen(row));
      outline(pen, right, kind.colour, wide + 0.6);
      outline(pen, rows.filter((row) => row[5] === -1), "#D55E00", 1.4, [4, 4]);
    });
    for (const kind of state.kinds) kind.clicks.forEach((click) => mark(pen, click));
    if (drag?.boxing && drag.moved) outline(pen, [box_of(drag)], state.kinds[state.kind].colour, 2, [5, 3]);
    canvas.dataset.view = JSON.stringify(view);
  }

  const spot = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  const pixel = ([u, v]) => [(u - view.x) / view.scale, (v - view.y) / view.scale];
  const box_of = ({ from, to }) => {
    const [[a, b], [c, d]] = [pixel(from), pixel(to)];
    return [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)];
  };

  function pointed(x, y, not) {
    const { width, height } = state.image;
    if (x < 0 || y < 0 || x > width || y > height) return;
    if (mode !== "review") return send({ do: "click", x, y, label: not ? 0 : 1 });
    const kind = state.kinds[state.kind];
    const inside = (row) => row[0] <= x && x <= row[2] && row[1] <= y && y <= row[3];
    const under = kind.rows.filter((row) => visible(kind, row) && inside(row));
    if (!under.length) return;
    const area = (row) => (row[2] - row[0]) * (row[3] - row[1]);
    const row = under.reduce((a, b) => (area(b) < area(a) ? b : a));
    const verdict = not ? -1 : 1;
    send({ do: "judge", box: row.slice(0, 4), verdict: row[5] === verdict ? 0 : verdict });
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!state || !bitmap || event.button === 1) return;
    root.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    const from = spot(event);
    const boxing = event.button === 0 && (mode === "box" || event.altKey || event.ctrlKey || event.metaKey);
    drag = { from, to: from, last: from, boxing, moved: false, not: event.button === 2 || event.shiftKey };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return;
    drag.to = spot(event);
    drag.moved ||= Math.hypot(drag.to[0] - drag.from[0], drag.to[1] - drag.from[1]) > 3;
    if (drag.moved && !drag.boxing) {
      view = { ...view, x: view.x + drag.to[0] - drag.last[0], y: view.y + drag.to[1] - drag.last[1] };
      fitted = false;
    }
    drag.last = drag.to;
    draw();
  });
  canvas.addEventListener("pointerup", () => {
    const done = drag;
    drag = null;
    if (!done) return;
    const box = box_of(done);
    if (done.moved && done.boxing) send(mode === "review" ? { do: "judge", box, verdict: 1 } : { do: "draw_box", box });
    else if (done.moved) sharpen();
    else if (!(done.boxing && mode === "box")) pointed(...pixel(done.from), done.not);
    draw();
  });
  canvas.addEventListener("pointercancel", () => { drag = null; draw(); });
  canvas.addEventListener("contextmenu", (event) => { event.preventDefault(); event.stopPropagation(); });
  const zoom = (event) => {
    event.preventDefault();
    if (!state || !bitmap) return;
    const [u, v] = spot(event);
    const [x, y] = pixel([u, v]);
    const least = Math.min(1, 100 / Math.max(state.image.width, state.image.height));
    const scale = Math.min(Math.max(view.scale * Math.exp(-event.deltaY * 0.0015), least), 64);
    view = { scale, x: u - x * scale, y: v - y * scale };
    fitted = false;
    draw();
    sharpen();
  };
  canvas.addEventListener("wheel", zoom, { passive: false });
  slider.addEventListener("input", () => {
    const kind = state.kinds[state.kind];
    kind.threshold = Number(slider.value);
    for (const row of kind.rows) row[6] = 0; // what an adaptive threshold kept
    refresh();
    draw();
  });
  slider.addEventListener("change", () => send({ do: "set_threshold", value: Number(slider.value) }));
  name.addEventListener("change", () => send({ do: "rename_kind", name: name.value }));
  root.addEventListener("keydown", (event) => {
    event.stopPropagation();
    const keys = { z: undo, f: fit_button, ArrowLeft: before, ArrowRight: after };
    if (event.target === root && keys[event.key] && !event.ctrlKey && !event.metaKey) keys[event.key].click();
    if (event.target === name && event.key === "Enter") name.blur();
  });
  const watch = new ResizeObserver(() => {
    if (state && bitmap && fitted) { fit(); draw(); }
  });
  watch.observe(holder);
  const stop = link.listen(receive);
  return () => { watch.disconnect(); stop(); };
}

function download(name, content) {
  const address = URL.createObjectURL(content);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

function render({ model, el }) {
  const waiting = new Map(); // id of a picture -> what its promise waits for
  const saved = (message, buffers) => {
    if (message.save) download(message.save, new Blob([buffers[0]]));
    waiting.get(message.picture)?.(new Blob([buffers[0]], { type: "image/jpeg" }));
    waiting.delete(message.picture);
  };
  const part = (box) => new Promise((resolve) => {
    const id = Math.random().toString(36).slice(2);
    waiting.set(id, resolve);
    model.send({ do: "picture", box, id });
  });
  model.on("msg:custom", saved);
  const stop = mount(el, {
    send: (event) => model.send(event),
    picture: async (_, box) => (box ? part(box) : new Blob([model.get("picture")], { type: "image/jpeg" })),
    save: (what) => model.send({ do: "export", what }),
    listen(f) {
      const changed = () => f(model.get("view"));
      model.on("change:view", changed);
      changed();
      return () => model.off("change:view", changed);
    },
  });
  return () => { model.off("msg:custom", saved); stop(); };
}

function page_link(token) {
  const address = (name, fields = {}) => `${name}?${new URLSearchParams({ ...fields, token })}`;
  let listener = () => {};
  let order = Promise.resolve(); // one request after the other, as they were clicked
  const ask = async (event) => {
    const asked = event && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(event) };
    const answer = await fetch(address(event ? "event" : "view"), asked || {});
    if (!answer.ok) throw new Error(await answer.text());
    await listener(await answer.json());
  };
  const complain = (error) => {
    const gone = error instanceof TypeError; // of fetch: nobody answers
    document.querySelector(".dk-status").textContent = gone ? "the program does not answer: was it ended?" : error.message;
  };
  const send = (event) => { order = order.then(() => ask(event)).catch(complain); };
  const save = async (what) => {
    const answer = await fetch(address("export", { what }));
    if (!answer.ok) throw new Error(await answer.text());
    download(answer.headers.get("Content-Disposition").split('"')[1], await answer.blob());
  };
  return {
    send,
    picture: async (index, box) => (await fetch(address("picture", box ? { index, box } : { index }))).blob(),
    save: (what) => save(what).catch(complain),
    listen(f) {
      listener = f;
      send(null);
      return () => {};
    },
  };
}

const page = document.querySelector("[data-dealkit-page]");
if (page) mount(page, page_link(new URL(import.meta.url).searchParams.get("token")));

export default { render };
