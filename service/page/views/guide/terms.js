// The field's terms: one sentence each, and the place in the lab where it can be tried.

export const TERMS = {
  kernel: [
    "A kernel is a small grid of weights that slides over the input. Each position gives one sum of products.",
    "Cross-correlation",
  ],
  stride: [
    "The stride is how many pixels the kernel moves between two positions. A stride of 2 halves the map.",
    "Stride halves a map",
  ],
  padding: [
    "Padding adds a border, mostly of zeros, so that the kernel also reaches the edges and the map keeps its size.",
    "Padding",
  ],
  dilation: [
    "Dilation spreads the kernel's weights apart, so that it covers a larger area with as many weights.",
    "Dilation",
  ],
  "receptive field": [
    "The receptive field is the part of the image that can influence one number. It grows from layer to layer.",
    null,
  ],
  channel: ["A channel is one map of a layer: what one kernel makes of the whole input.", "Two channels"],
  parameters: ["Parameters are the numbers that training adjusts: weights and biases.", null],
  multiplications: [
    "Each counts one multiplication and addition for one image; most of the computing time goes there.",
    null,
  ],
  logit: ["A logit is the score of a class before the softmax. Only differences between logits matter.", null],
  softmax: ["The softmax turns logits into probabilities that add up to 1.", null],
  bias: ["The bias is a number that is added to every sum of a channel.", null],
  pooling: [
    "Pooling keeps one number of each window, its largest or its mean, and makes the map smaller.",
    "Max pooling",
  ],
  relu: ["ReLU sets negative numbers to 0. Without such a bend, layers upon layers would be no more than one.", null],
  "batch norm": ["Batch norm scales and shifts each channel by numbers that it learnt from the training images.", null],
};

const OPS = {
  Conv2d: "kernel",
  MaxPool2d: "pooling",
  AvgPool2d: "pooling",
  relu: "relu",
  ReLU: "relu",
  BatchNorm2d: "batch norm",
};

/** The term that a layer's type stands for, or null. */
export function termOf(op) {
  return OPS[op] ?? null;
}
