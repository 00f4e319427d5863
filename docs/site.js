// Wide tables scroll; with a tab stop they also do so from the keyboard.
document$.subscribe(() => document.querySelectorAll(".md-typeset__scrollwrap").forEach((table) => table.setAttribute("tabindex", "0")))
