// Every piece of text whose colour stands out less from what is behind it than WCAG 2 AA asks.
() => {
  const parts = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
    return colour.startsWith("color(") ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
  };
  const over = ([r, g, b, a], behind) => [r, g, b].map((c, n) => c * a + behind[n] * (1 - a));
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(parts(getComputedStyle(e).backgroundColor));
    return layers.reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const faults = [];
  const judge = (element, style, text) => {
    let shown = 1;
    for (let e = element; e; e = e.parentElement) shown *= Number(getComputedStyle(e).opacity);
    if (!shown) return;
    const back = behind(element);
    const [r, g, b, a] = parts(element instanceof SVGElement ? style.fill : style.color);
    const [dark, bright] = [light(over([r, g, b, a * shown], back)), light(back)].sort((x, y) => x - y);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const ratio = (bright + 0.05) / (dark + 0.05);
    if (ratio < (large ? 3 : 4.5)) faults.push(`${text.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  };
  for (const element of document.querySelectorAll("body *")) {
    if (!element.checkVisibility({ visibilityProperty: true }) || element.closest("script, style, title, :disabled")) continue;
    const text = [...element.childNodes].filter((n) => n.nodeType === Node.TEXT_NODE).map((n) => n.data).join("");
    if (text.trim()) judge(element, getComputedStyle(element), text);
    if (element.placeholder && !element.value) judge(element, getComputedStyle(element, "::placeholder"), element.placeholder);
  }
  return faults;
}
