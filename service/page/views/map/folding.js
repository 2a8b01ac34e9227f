// Which nodes the map shows when modules are folded into one, and where.

/** The modules that can be folded, outer ones first: {path, depth, members}; members index `nodes`. */
export function modulesOf(nodes) {
  const found = new Map();
  nodes.forEach(({ module }, index) => {
    const parts = module.split(".");
    for (let depth = module ? 1 : Infinity; depth <= parts.length; depth++) {
      const path = parts.slice(0, depth).join(".");
      if (!found.has(path)) found.set(path, { path, depth, members: [] });
      found.get(path).members.push(index);
    }
  });
  const around = (path) => found.get(path.slice(0, Math.max(0, path.lastIndexOf("."))));
  const useful = ({ path, members }) => members.length > 1 && members.length !== around(path)?.members.length;
  return [...found.values()].filter(useful).sort((a, b) => a.depth - b.depth);
}

/**
 * The nodes that remain, the input first: {key, name, path, members, parents, children, row, lane}; `path` is that of
 * a folded module, and undefined for a layer.
 */
export function contract(nodes, modules, folded) {
  const owner = new Map();
  for (const { path, members } of modules) {
    if (folded.has(path)) for (const index of members) if (!owner.has(index)) owner.set(index, path);
  }
  const shown = new Map();
  const items = new Map(); // by the name of a layer
  const item = (key, name, path) => {
    if (!shown.has(key)) shown.set(key, { key, name, path, members: [], parents: new Set(), children: [] });
    return shown.get(key);
  };
  items.set("input", item("input", "input"));
  nodes.forEach(({ name }, index) => {
    const path = owner.get(index);
    items.set(name, item(path === undefined ? name : `${path}/`, path ?? name, path));
    items.get(name).members.push(index);
  });
  for (const { name, parents } of nodes) for (const parent of parents) items.get(name).parents.add(items.get(parent));
  for (const each of shown.values()) {
    each.parents.delete(each);
    for (const parent of each.parents) parent.children.push(each);
  }
  place([...shown.values()]);
  return shown;
}

function rowOf(item) {
  if (item.row === undefined) {
    item.row = 0; // met again if folded modules form a cycle
    if (item.key !== "input") item.row = 1 + Math.max(0, ...[...item.parents].map(rowOf));
  }
  return item.row;
}

/** Rows by the longest path; lanes as models/graph/layout.py chooses them. */
function place(items) {
  items.forEach(rowOf);
  const taken = []; // by lane: the rows that a node and its outgoing edges cover
  const last = ({ row, children }) => Math.max(row, ...children.map((child) => child.row));
  const [input, ...others] = items;
  input.lane = 0;
  for (const item of others.sort((a, b) => a.row - b.row || a.members[0] - b.members[0])) {
    const end = Math.max(last(item), item.row + 1);
    const before = [...item.parents].filter(({ lane }) => lane !== undefined).sort((a, b) => a.lane - b.lane);
    const ending = before.filter((parent) => last(parent) === item.row);
    const candidates = [...[...ending, ...before].map(({ lane }) => lane), ...taken.keys(), taken.length];
    const free = (lane) => (taken[lane] ?? []).every(([from, to]) => end <= from || to <= item.row);
    item.lane = candidates.find(free);
    (taken[item.lane] ??= []).push([item.row, end]);
  }
}

/** The number of columns ("row") or lanes ("lane"). */
export function extent(shown, name) {
  return 1 + Math.max(...[...shown.values()].map((item) => item[name]));
}

/** The modules to fold until `columns` suffice: the deepest first, and chains before modules with branches. */
export function foldToFit(nodes, modules, columns) {
  const folded = new Set();
  for (let depth = modules.at(-1)?.depth ?? 0; depth > 0; depth--) {
    for (const branches of [false, true]) {
      const shown = contract(nodes, modules, folded);
      if (extent(shown, "row") <= columns) return folded;
      const some = modules.filter((each) => each.depth === depth && (branches || isChain(each, shown)));
      for (const { path } of some) folded.add(path);
    }
  }
  return folded;
}

function isChain({ members }, shown) {
  const inside = [...shown.values()].filter((item) => members.includes(item.members[0]));
  const within = (children) => children.filter((child) => inside.includes(child)).length;
  return inside.every(({ parents, children }) => parents.size <= 1 && within(children) <= 1);
}

/** What lies on paths through a node: its nodes, and its edges as [from, to]. */
export function pathsThrough(item) {
  const edges = [];
  const [before, after] = ["parents", "children"].map((next) => {
    const met = new Set([item]);
    for (const each of met) {
      for (const other of each[next]) {
        edges.push(next === "parents" ? [other, each] : [each, other]);
        met.add(other);
      }
    }
    return met;
  });
  return { nodes: new Set([...before, ...after]), edges };
}

/** The unfolded modules above their columns, at most `most` deep: {path, first, last, level}. */
export function brackets(modules, folded, shown, most) {
  const rows = new Map();
  for (const { members, row } of shown.values()) for (const index of members) rows.set(index, row);
  const placed = [];
  for (const { path, members } of modules) {
    const around = (outer) => `${path}.`.startsWith(`${outer}.`);
    if ([...folded].some(around)) continue;
    const own = members.map((index) => rows.get(index));
    const [first, last] = [Math.min(...own), Math.max(...own)];
    const level = placed.filter((each) => around(each.path)).length;
    const clash = placed.some((each) => each.level === level && each.first <= last && first <= each.last);
    if (level < most && !clash) placed.push({ path, first, last, level });
  }
  return placed;
}
