// Draw the interactive charts, and mend the theme's accessibility.
(() => {
  const root = document.documentElement;
  const here = document.currentScript.src;

  const draw = () => {
    const dark = root.dataset.theme === "dark";
    for (const node of document.querySelectorAll(".live-chart")) {
      node.spec ??= JSON.parse(node.querySelector("script").textContent);
      window.vegaEmbed(node, node.spec, {
        actions: false,
        renderer: "canvas",
        theme: dark ? "dark" : undefined,
        config: { background: "transparent" },
      });
    }
  };

  const loadCharts = () => {
    if (!document.querySelector(".live-chart")) return;
    const script = document.createElement("script");
    script.src = new URL("vega.js", here);
    script.onload = () => {
      draw();
      new MutationObserver(draw).observe(root, { attributeFilter: ["data-theme"] });
    };
    document.head.append(script);
  };

  // What axe-core finds in the theme's own markup, and what it takes to mend it.
  const mend = () => {
    // An aria-label that differs from the visible text defeats voice control.
    const labelled = "summary, button.search-button-field, button.theme-switch-button";
    for (const node of document.querySelectorAll(labelled)) node.removeAttribute("aria-label");
    // This theme leaves the header empty, and the logo, a link home, in no landmark.
    const header = document.querySelector("#pst-header");
    if (header && !header.textContent.trim()) header.hidden = true;
    const home = document.querySelector(".sidebar-primary-item:has(> .navbar-brand)");
    home?.setAttribute("role", "navigation");
    home?.setAttribute("aria-label", "Home");
    // A bibliography is a list whose entries do not say that they are its items.
    for (const node of document.querySelectorAll(".citation-list > .citation"))
      node.setAttribute("role", "listitem");
  };

  // What scrolls sideways, at the present width, must be reachable by keyboard.
  const reachScrollables = () => {
    for (const node of document.querySelectorAll("div.math, .live-chart, figure, pre"))
      if (node.scrollWidth > node.clientWidth) node.tabIndex = 0;
  };

  document.addEventListener("DOMContentLoaded", () => {
    mend();
    loadCharts();
  });
  for (const event of ["load", "resize"]) window.addEventListener(event, reachScrollables);
})();
