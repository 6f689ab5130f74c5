for (const button of document.querySelectorAll('.trials th button')) {
  const body = button.closest('table').tBodies[0];
  button.addEventListener('click', () => {
    const head = button.parentElement, place = head.cellIndex;
    const down = head.getAttribute('aria-sort') !== 'ascending';
    for (const other of head.parentElement.cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'ascending' : 'descending');
    const key = row => row.cells[place].dataset.key;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)], [p, q] = [Number(x), Number(y)];
      if (Number.isNaN(p) !== Number.isNaN(q)) return Number.isNaN(p) ? 1 : -1;
      const order = Number.isNaN(p) ? x.localeCompare(y) : p - q;
      return down ? order : -order;
    });
    body.append(...rows);
  });
}
const mark = (id, on) => {
  for (const each of document.querySelectorAll(`[data-trial="${id}"]`))
    each.classList.toggle('on', on);
};
for (const each of document.querySelectorAll('[data-trial]')) {
  for (const kind of ['mouseenter', 'focus']) {
    each.addEventListener(kind, () => mark(each.dataset.trial, true));
  }
  for (const kind of ['mouseleave', 'blur']) {
    each.addEventListener(kind, () => mark(each.dataset.trial, false));
  }
}
