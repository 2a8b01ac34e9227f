// The value under the pointer or the keyboard's cursor, beside it.

import { element, short } from "../../core/dom.js";
import { describeField } from "../unit/unit.js";

/** Shows what a probe of the layers tells; null hides it. */
export function showReadout(readout, probe) {
  readout.hidden = !probe;
  if (!probe) return;
  const { card, unit, spot, field } = probe;
  const { channel: index, row, column } = unit;
  const at = Math.max(index, column);
  const bar = card.labels?.[at] ?? `value ${at}`;
  const place = card.kind === "bars" ? bar : `channel ${index} · row ${row} · column ${column}`;
  const value = card.valueAt(unit);
  const reading = value ? ` ${value.exact ? "=" : "≈"} ${short(value.value)}` : "";
  readout.replaceChildren(element("strong", "", place + reading), describeField(field));
  const { width, height } = readout.getBoundingClientRect();
  const x = Math.min(spot.x + 16, innerWidth - width - 8);
  const y = spot.y + 20 + height > innerHeight ? spot.y - height - 14 : spot.y + 20;
  readout.style.transform = `translate(${Math.max(8, x)}px, ${y}px)`;
}
