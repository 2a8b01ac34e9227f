// Elements and numbers for display.

export function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** A bar on its track, filled to a share. */
export function bar(share) {
  const [track, fill] = [element("span", "track"), element("span", "bar")];
  fill.style.width = `${100 * share}%`;
  track.append(fill);
  return track;
}

/** A button that is no submit button. */
export function button(className, text, onclick) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", onclick);
  return made;
}

/** A labelled select: options are texts, or [value, text]. */
export function select(label, options, onchange) {
  const made = element("label", "", `${label} `);
  const list = document.createElement("select");
  const toOption = (option) => (typeof option === "string" ? new Option(option) : new Option(option[1], option[0]));
  list.append(...options.map(toOption));
  list.addEventListener("change", () => onchange(list.value));
  made.append(list);
  return made;
}

/** Terms and their values, as dt and dd. */
export function pairs(facts) {
  const known = Object.entries(facts).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return known.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]);
}

/** Terms that have values, each pair in a box. */
export function boxes(facts) {
  const known = Object.entries(facts).filter(([, value]) => value);
  return known.map(([name, value]) => {
    const box = element("div", "");
    box.append(element("dt", "", name), element("dd", "", value));
    return box;
  });
}

/** A number for display: three significant digits. */
export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e5)) return value.toExponential(1).replace("-", "−");
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

export function percent(value) {
  if (value > 0 && value < 0.0005) return "< 0.1 %";
  return `${(100 * value).toFixed(value > 0.9994 && value < 0.99995 ? 2 : 1)} %`;
}
