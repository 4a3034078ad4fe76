// The frame has no login: the page around it shows one.
window.parent.location.reload();
