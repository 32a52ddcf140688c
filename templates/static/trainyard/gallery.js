// The gallery: labels on and off, keys, and which object is which. Without it every page is there, with all labels.
(() => {
  "use strict";

  // --- labels on and off, remembered in this browser ------------------------------------------------------
  const key = (name) => `trainyard-gallery-${name}`;

  const recalled = (name) => {
    try {
      return localStorage.getItem(key(name)) !== "off";
    } catch {
      return true; // a browser that keeps nothing
    }
  };

  const remember = (name, on) => {
    try {
      localStorage.setItem(key(name), on ? "on" : "off");
    } catch {
      // it holds for this page, then
    }
  };

  const show = (name, on) => {
    for (const place of document.querySelectorAll("[data-labels]")) place.classList.toggle(`ty-${name}-off`, !on);
  };

  const startSwitches = () => {
    for (const box of document.querySelectorAll("[data-labels-switch]")) {
      const name = box.dataset.labelsSwitch;
      box.checked = recalled(name);
      show(name, box.checked);
      box.addEventListener("change", () => {
        remember(name, box.checked);
        show(name, box.checked);
      });
    }
  };

  // --- one picture ----------------------------------------------------------------------------------------
  const startFocus = (list) => {
    const overlay = document.querySelector(".ty-picture .ty-overlay");
    if (!overlay) return;
    const focusOn = (index) => {
      overlay.classList.toggle("ty-has-focus", index !== undefined);
      for (const drawn of overlay.querySelectorAll("[data-instance]")) {
        drawn.classList.toggle("ty-focus", drawn.dataset.instance === index);
      }
    };
    list.addEventListener("mouseover", (event) => focusOn(event.target.closest("[data-for]")?.dataset.for));
    list.addEventListener("mouseleave", () => focusOn(undefined));
  };

  const onKey = (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
    const link = document.querySelector(`a[data-key="${CSS.escape(event.key)}"]`);
    if (!link) return;
    event.preventDefault();
    link.click();
  };

  // --- small helps ----------------------------------------------------------------------------------------
  const onCopy = async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
    } catch {
      return; // no right to the clipboard, or no HTTPS: the whole value is in the title
    }
    button.textContent = button.dataset.copied;
    setTimeout(() => (button.textContent = before), 1500);
  };

  document.addEventListener("DOMContentLoaded", () => {
    startSwitches();
    for (const list of document.querySelectorAll(".ty-instances")) startFocus(list);
    for (const form of document.querySelectorAll("[data-submit-on-change]")) {
      form.addEventListener("change", () => form.requestSubmit());
    }
    document.addEventListener("keydown", onKey);
    document.addEventListener("click", onCopy);
  });
})();
