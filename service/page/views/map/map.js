// The map of the network: from left to right, modules folded until it fits; it navigates the layers below.

import { element } from "../../core/dom.js";
import { seesText } from "../../core/geometry.js";
import { brackets, contract, extent, foldToFit, modulesOf, pathsThrough } from "./folding.js";
import { Tiles, fit } from "./tiles.js";

const HEIGHT = 158; // CSS pixels for brackets and lanes
const [BRACKET, LABEL] = [17, 13];
const LEVELS = 3; // of brackets
const MOST_ZOOM = 8;
const [LEAST, MOST] = [30, 96]; // CSS pixels between columns before zooming
const LEAST_ROOM = 900; // narrower windows fold no more than this, and scroll
const LEAST_NARROW = 44; // between columns in those
const LEAST_STEP = 18; // between lanes
const FRAME = `<div class="map-head"><p></p><button data-act="all"></button>
<button data-act="out" aria-label="Zoom out">−</button>
<button data-act="in" aria-label="Zoom in">+</button>
<button data-act="fit" title="The whole network, folded until it fits">Fit</button></div>
<div class="map-scroller"><div class="map-content" role="group"
  aria-label="Map of the network. Arrow keys move, Enter opens, Backspace folds a module.">
<svg preserveAspectRatio="none" aria-hidden="true"><path/><path class="map-lit"/></svg></div></div>`;

/** Nodes as buttons, placed by the style sheet from --row and --lane; edges as two paths, all and those lit. */
export class MapView {
  #nodes = [];
  #order = []; // what is shown, by column and lane
  #folded = new Set();
  #chosen = false; // whether the user folded or unfolded something
  #lit = null;
  #note = ""; // what the filter found
  #room = 0; // CSS pixels across, as of the last layout
  #zoom = 1;

  /** @param {HTMLElement} root @param {object} page */
  constructor(root, page) {
    this.root = root;
    this.page = page;
    root.hidden = true;
    root.innerHTML = FRAME;
    [this.caption, this.all, this.scroller, this.content, this.svg] =
      ["p", "[data-act=all]", ".map-scroller", ".map-content", "svg"].map((one) => root.querySelector(one));
    this.tiles = new Tiles(page, () => this.#paint());
    this.reading = new IntersectionObserver((entries) => this.#read(entries), { rootMargin: "-28% 0px -66%" });
    const { store } = page;
    store.watch(["graph"], ({ graph }) => this.#start(graph));
    store.watch(["maps", "tab"], ({ tab }) => tab === "layers" && this.tiles.want());
    store.watch(["seen"], () => this.#paint());
    store.watch(["image"], () => this.#tell());
    new ResizeObserver(() => requestAnimationFrame(() => this.#fit())).observe(root);
    page.find("palette").addEventListener("change", () => this.#paint());
    page.find("filter").addEventListener("input", () => this.#search());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#paint());
    this.#listen();
  }

  #listen() {
    const under = ({ target }) => this.shown?.get(target.closest(".map-node")?.dataset.key) ?? null;
    this.root.addEventListener("click", (event) => {
      const { act, path } = event.target.closest("button")?.dataset ?? {};
      if (under(event)) this.#open(under(event));
      else if (path) this.#close(path);
      else if (act === "all") this.#fold(new Set(this.#folded.size ? [] : this.modules.map((each) => each.path)));
      else if (act === "fit") this.#fold(null);
      else if (act) this.#scale(act === "in" ? 1.5 : 1 / 1.5);
    });
    this.content.addEventListener("pointerover", (event) => this.#light(under(event)));
    this.content.addEventListener("focusin", (event) => {
      this.#rove(under(event));
      if (event.target.matches(":focus-visible")) this.#light(under(event));
    });
    for (const type of ["pointerleave", "focusout"]) this.content.addEventListener(type, () => this.#light(null));
    this.content.addEventListener("keydown", (event) => this.#key(event, under(event)));
    const turn = (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.#scale(Math.exp(-event.deltaY / 300), event);
    };
    const moved = () => (this.settled = false);
    for (const type of ["wheel", "touchmove", "pointerdown", "keydown"]) addEventListener(type, moved, true);
    this.scroller.addEventListener("wheel", turn, { passive: false });
    this.#pan();
  }

  /** A mouse drags the map along; a finger scrolls it by itself. */
  #pan() {
    const { scroller } = this;
    let [from, far] = [null, false];
    scroller.addEventListener("pointerdown", ({ x, y, button, pointerType }) => {
      from = button || pointerType !== "mouse" ? null : [x + scroller.scrollLeft, y + scroller.scrollTop];
      far = false;
    });
    scroller.addEventListener("pointermove", ({ x, y, buttons }) => {
      if (from === null || !buttons) return;
      const [left, top] = [from[0] - x, from[1] - y];
      far ||= Math.hypot(left - scroller.scrollLeft, top - scroller.scrollTop) > 4;
      if (far) scroller.scrollTo(left, top);
    });
    scroller.addEventListener("click", (event) => far && event.stopPropagation(), { capture: true });
  }

  #start(graph) {
    this.reading.disconnect();
    this.#nodes = graph?.nodes ?? [];
    this.#order = [];
    this.#room = 0;
    this.#chosen = false;
    this.tiles.drop();
    this.root.hidden = !graph;
    this.modules = modulesOf(this.#nodes);
    this.all.hidden = !this.modules.length;
    for (const each of document.querySelectorAll("#flow .card, #flow .block > summary")) this.reading.observe(each);
    this.#fit();
  }

  /** Folds for the room there is, unless the user chose what is folded. */
  #fit() {
    const room = this.scroller.clientWidth;
    if (!room || room === this.#room || !this.#nodes.length) return;
    this.#room = room;
    if (this.#chosen) this.#size();
    else this.#fold(null);
  }

  /** Shows the network with these modules folded, by default as many as needed to fit; focuses one node. */
  #fold(folded, focus = () => false) {
    this.#chosen = Boolean(folded);
    if (!folded) this.#zoom = 1;
    const columns = Math.floor(Math.max(this.#room, LEAST_ROOM) / LEAST);
    this.#folded = folded ?? foldToFit(this.#nodes, this.modules, columns);
    this.shown = contract(this.#nodes, this.modules, this.#folded);
    this.#order = [...this.shown.values()].sort((a, b) => a.row - b.row || a.lane - b.lane);
    for (const item of this.#order) this.#make(item);
    const marks = brackets(this.modules, this.#folded, this.shown, LEVELS);
    this.head = 8 + BRACKET * Math.max(0, ...marks.map(({ level }) => level + 1));
    [this.columns, this.lanes] = [extent(this.shown, "row"), extent(this.shown, "lane")];
    this.svg.setAttribute("viewBox", `0 0 ${this.columns} ${this.lanes}`);
    const edges = this.#order.flatMap((item) => item.children.map((child) => [item, child]));
    this.svg.children[0].setAttribute("d", curves(edges));
    this.content.replaceChildren(this.svg, ...marks.map(bracket), ...this.#order.map(({ button }) => button));
    this.all.textContent = this.#folded.size ? "Unfold all" : "Fold all";
    this.#size();
    this.#rove(this.#order[0]);
    this.#light(null);
    this.#search();
    this.#mark();
    this.#paint();
    this.#order.find(focus)?.button.focus();
  }

  #make(item) {
    const { key, name, path, members, row, lane } = item;
    item.last = this.#nodes[members.at(-1)];
    item.facts = ["the image as the network sees it"];
    if (item.last) {
      const { op, shape, receptive_field: field } = item.last;
      const what = path === undefined ? op : `${members.length} layers, folded`;
      item.facts = [what, shape.join(" × "), field ? `receptive field ${field.join("×")}` : seesText(item.last)];
    }
    const made = (item.button = element("button", `map-node${path === undefined ? "" : " group"}`));
      Object.assign(made.dataset, { key, row, lane });
    place(made, { row, lane });
    made.setAttribute("aria-label", [name, ...item.facts].join(", "));
    if (path !== undefined) made.setAttribute("aria-expanded", "false");
    item.canvas = document.createElement("canvas");
    made.append(item.canvas, tail(name.match(/[^.]*(\.\d+)*$/)[0]));
  }

  #size() {
    const least = this.#room < LEAST_ROOM ? LEAST_NARROW : LEAST;
    const base = Math.min(MOST, Math.max(least, (this.#room - 2) / this.columns));
    const high = Math.max(LEAST_STEP, Math.min((HEIGHT - this.head) / this.lanes, base * 0.8 + LABEL));
    const [pitch, step] = [base * this.#zoom, high * this.#zoom];
    const label = step < 34 ? 0 : LABEL;
    const tile = Math.max(8, Math.min(pitch * 0.7, step - label - 6));
    place(this.content, { columns: this.columns, lanes: this.lanes });
    place(this.content, { pitch, step, tile, head: this.head, lift: label / 2 }, "px");
    this.content.classList.toggle("labelled", label > 0);
    place(document.documentElement, { "map-height": this.root.offsetHeight }, "px"); // what is scrolled to stops below
    [this.pitch, this.step] = [pitch, step];
  }

  /** Zooms; the column and the lane at a point stay where they are, by default those in the middle. */
  #scale(factor, point) {
    const { scroller } = this;
    const { left, top, width, height } = scroller.getBoundingClientRect();
    const [x, y] = point ? [point.x - left, point.y - top] : [width / 2, height / 2];
    const column = (scroller.scrollLeft + x) / this.pitch;
    const lane = (scroller.scrollTop + y - this.head) / this.step;
    this.#zoom = Math.min(MOST_ZOOM, Math.max(1, this.#zoom * factor));
    this.#size();
    scroller.scrollTo(column * this.pitch - x, this.head + lane * this.step - y);
  }

  #open({ key, name, path, members }) {
    if (key === "input") return this.page.find("choose").focus();
    if (path === undefined) return this.page.jump(name);
    const others = [...this.#folded].filter((each) => each !== path);
    this.#fold(new Set(others), (item) => item.members[0] === members[0]);
    this.page.jump(this.#nodes[members[0]].name, { focus: false });
  }

  #close(path) {
    this.#fold(new Set([...this.#folded, path]), (item) => item.path === path);
  }

  #key(event, item) {
    const at = this.#order.indexOf(item);
    const beside = (way) => {
      const far = ({ row, lane }) => Math.abs(row - item.row) * 100 + Math.abs(lane - item.lane);
      return this.#order.filter(({ lane }) => (lane - item.lane) * way > 0).sort((a, b) => far(a) - far(b))[0];
    };
    const moves = {
      ArrowLeft: () => this.#order[at - 1],
      ArrowRight: () => this.#order[at + 1],
      ArrowUp: () => beside(-1),
      ArrowDown: () => beside(1),
      Home: () => this.#order[0],
      End: () => this.#order.at(-1),
    };
    const around = ({ path, members }) => path !== item.path && members.includes(item.members[0]);
    const module = this.modules.findLast((each) => around(each) && !this.#folded.has(each.path));
    if (event.key === "Backspace" && module) this.#close(module.path);
    else if (moves[event.key]) moves[event.key]()?.button.focus();
    else return;
    event.preventDefault();
  }

  /** Makes one node the only one that Tab reaches. */
  #rove(item) {
    for (const each of this.#order) each.button.tabIndex = each === item ? 0 : -1;
  }

  /** Lights the paths through a node, and outlines on the input what its central position sees. */
  #light(item) {
    if (item === this.#lit) return;
    this.#lit = item;
    const { nodes, edges } = item ? pathsThrough(item) : { nodes: new Set(), edges: [] };
    this.svg.children[1].setAttribute("d", curves(edges));
    this.content.classList.toggle("lighting", Boolean(item));
    for (const each of this.#order) each.button.classList.toggle("on", nodes.has(each));
    this.#tell();
    if (!this.page.store.get("seen")) return;
    const [, height, width] = item?.last?.shape ?? [];
    const field = item?.last ? this.page.field(item.last, height >> 1, width >> 1) : null;
    this.page.drawSeen(this.page.find("seen"), 0, field);
  }

  #tell() {
    if (this.#lit) {
      const { name, facts } = this.#lit;
      return this.caption.replaceChildren(element("strong", "", name), ` · ${facts.join(" · ")}`);
    }
    const { store } = this.page;
    const parts = [`${this.#nodes.length} layers from left to right`];
    if (store.get("model")?.inspectable === false) parts.push("no pictures without model.onnx");
    else if (!store.get("image")) parts.push("an image gives each the picture of its strongest channel");
    parts.push(this.#folded.size ? "a click unfolds a stack" : "a click shows the layer");
    this.caption.textContent = this.#note || parts.join(" · ");
  }

  /** Marks the nodes that the filter of the layers finds. */
  #search() {
    const wanted = this.page.find("filter").value.trim().toLowerCase();
    const fits = this.#nodes.map(({ name, op }) => wanted !== "" && `${name} ${op}`.toLowerCase().includes(wanted));
    for (const { button, members } of this.#order) {
      button.classList.toggle("found", members.some((index) => fits[index]));
    }
    this.content.classList.toggle("searching", wanted !== "");
    this.#note = wanted && `${fits.filter(Boolean).length} of ${fits.length} layers match`;
    this.#tell();
  }

  /** Marks the node of a layer that was chosen, until the reader scrolls on. */
  settle(name) {
    [this.read, this.settled] = [name, true];
    this.#mark();
  }

  /** Marks the node whose layer is below the map. */
  #read(entries) {
    if (this.settled) return;
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.read = target.dataset.node ?? target.parentElement.querySelector(".card").dataset.node;
    }
    this.#mark();
  }

  #mark() {
    const index = this.#nodes.findIndex(({ name }) => name === this.read);
    for (const { button, members } of this.#order) button.setAttribute("aria-current", members.includes(index));
  }

  #paint() {
    for (const { canvas, last } of this.#order) {
      const picture = this.page.store.get("seen");
      if (last) this.tiles.draw(canvas, last);
      else if (picture) fit(canvas, picture);
      if (!last) canvas.hidden = !picture;
    }
  }
}

/** Edges in units of columns and lanes: along the lane of the source, and over to the target just before it. */
function curves(edges) {
  return edges.map(([{ row, lane }, to]) => {
    const [x, y] = [to.row, to.lane + 0.5];
    const over = `H${x - 0.15}C${x + 0.05} ${lane + 0.5} ${x - 0.05} ${y} ${x + 0.15} ${y}`;
    return `M${row + 0.5} ${lane + 0.5}${lane === to.lane ? "" : over}H${x + 0.5}`;
  }).join("");
}

function place(target, values, unit = "") {
  for (const [name, value] of Object.entries(values)) target.style.setProperty(`--${name}`, `${value}${unit}`);
}

/** A text that is cut off at its beginning. */
function tail(text) {
  return element("span", "map-label", `\u200e${text}\u200e`); // the marks keep its order in a box from right to left
}

function bracket({ path, first, last, level }) {
  const made = element("button", "map-bracket");
  made.tabIndex = -1; // Backspace on a node does the same
  made.title = `Fold ${path}`;
  made.dataset.path = path;
  place(made, { first, level, span: last - first + 1 });
  made.append(tail(path));
  return made;
}
