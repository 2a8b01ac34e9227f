// The terms of a unit, from the server's nested arrays to a list.

/** All numbers of nested arrays, the last axis fastest; a number alone is one. */
export function flat(nested) {
  return Array.isArray(nested) ? nested.flat(Infinity) : [nested];
}

/** The size of each axis of nested arrays. */
export function sizes(nested) {
  return Array.isArray(nested) ? [nested.length, ...sizes(nested[0] ?? 0)] : [];
}

/**
 * One group of terms as a list: {source, index, value, weight, product, padding}; `weight` is null for functions, and
 * `weightSource` says where a factor comes from that is no constant.
 */
export function listTerms(group) {
  const values = flat(group.values);
  const lengths = group.axes.map((axis) => axis.length);
  const weights = group.weights === undefined ? null : flat(group.weights);
  const products = group.products === undefined ? null : flat(group.products);
  const padding = group.padding === undefined ? null : flat(group.padding);
  return values.map((value, at) => ({
    source: group.source,
    index: position(group.axes, lengths, at),
    value,
    weight: weights?.[at] ?? null,
    product: products?.[at] ?? null,
    padding: padding?.[at] ?? false,
    weightSource: group.weights_source
      ? { source: group.weights_source.source, index: position(group.weights_source.axes, lengths, at) }
      : null,
  }));
}

function position(axes, lengths, at) {
  const index = [];
  for (let axis = lengths.length - 1; axis >= 0; axis--) {
    index.unshift(axes[axis][at % lengths[axis]] ?? axes[axis][0]);
    at = Math.floor(at / lengths[axis]);
  }
  return index;
}
