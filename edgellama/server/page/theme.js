// Colours chosen by the reader, set before the first paint: that is why this is no module.
"use strict";

const theme = {
  /** "auto" (what the system says), "light" or "dark". */
  get() {
    try {
      return localStorage.getItem("edgellama.theme") || "auto";
    } catch {
      return "auto"; // storage is forbidden here
    }
  },

  set(name) {
    document.documentElement.dataset.theme = name;
    try {
      localStorage.setItem("edgellama.theme", name);
    } catch {
      // it holds until the tab is closed
    }
  },
};

document.documentElement.dataset.theme = theme.get();

addEventListener("DOMContentLoaded", () => {
  const choices = document.getElementById("theme");
  choices.querySelector(`[value="${document.documentElement.dataset.theme}"]`).checked = true;
  choices.addEventListener("change", (event) => theme.set(event.target.value));
});
