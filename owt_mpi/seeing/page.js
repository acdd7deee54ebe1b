// What the curves of a chart say at the place that somebody points at.
"use strict";
const NEAR = 16;  // units of the picture: points farther from the line under the pointer are not told
for (const plot of document.querySelectorAll(".plot")) {
  const svg = plot.querySelector("svg"), tip = plot.querySelector(".tip"), cursor = plot.querySelector(".cursor");
  const lines = [...plot.querySelectorAll(".line")].map((line) => ({
    name: line.dataset.name,
    colour: line.classList[1],
    second: line.classList.contains("second"),
    xs: line.querySelector("polyline").getAttribute("points").split(" ").map(Number.parseFloat),
    x: line.dataset.x.split("|"),
    y: line.dataset.y.split("|"),
  }));

  const hide = () => { tip.hidden = true; cursor.style.visibility = "hidden"; };

  const show = (event) => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    const closest = (xs) => xs.reduce((best, x, i) => Math.abs(x - at) < Math.abs(xs[best] - at) ? i : best, 0);
    const nearest = lines.map((line) => closest(line.xs));
    const first = closest(lines.map((line, n) => line.xs[nearest[n]]));
    const x = lines[first].xs[nearest[first]];
    tip.replaceChildren(document.createTextNode(`${svg.dataset.x} ${lines[first].x[nearest[first]]}`.trim()));
    lines.forEach((line, n) => {
      if (Math.abs(line.xs[nearest[n]] - x) > NEAR) return;
      const row = document.createElement("div"), key = document.createElement("span");
      key.className = `key ${line.colour}${line.second ? " second" : ""}`;
      row.append(key, `${line.y[nearest[n]]} ${line.name}`);
      tip.append(row);
    });
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.style.visibility = "visible";
    tip.hidden = false;
    const left = x * box.width / svg.viewBox.baseVal.width;
    tip.style.left = left < box.width / 2 ? `${left + 12}px` : "auto";
    tip.style.right = left < box.width / 2 ? "auto" : `${box.width - left + 12}px`;
  };

  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hide);
}
