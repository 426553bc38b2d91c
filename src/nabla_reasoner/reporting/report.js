// Sorting: a click on a column's name sorts by it. Numbers by value, the rest as text, empty and unknown cells last.
const value = text => {
  const plain = text.trim().replace(/\u2212/g, '-').replace(/,(?=\d{3})/g, '');
  return /^[+-]?(\d|\.\d)/.test(plain) ? parseFloat(plain) : NaN;
};
const unknown = text => ['', '?', '-', '–'].includes(text.trim());
let sortable = 0;
for (const table of document.querySelectorAll('table')) {
  if (!table.tHead || !table.tBodies.length) continue;
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const cells = [...body.rows].map(row => row.cells[column]).filter(cell => cell);
    const known = cells.map(cell => cell.textContent).filter(text => !unknown(text));
    if (known.length && known.every(text => !isNaN(value(text)) && text.length < 26)) {
      [head, ...cells].forEach(cell => cell.classList.add('number'));
    }
    cells.filter(cell => cell.textContent.length < 26).forEach(cell => cell.classList.add('short'));
    const long = cells.filter(cell => cell.textContent.length > 40);
    long.forEach(cell => cell.classList.add('long'));
    // Read as cards on a phone (report.css), unless the table is wide or long.
    if (long.length && heads.length < 9 && body.rows.length < 31) table.classList.add('cards');
    cells.forEach(cell => { cell.dataset.name = head.textContent; });
    const button = document.createElement('span');  // a button would not be printed again on the next page
    button.tabIndex = 0;
    button.setAttribute('role', 'button');
    button.title = 'sort by this column';
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener('keydown', event => event.key === 'Enter' && button.click());
    button.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') === 'ascending';
      heads.forEach(other => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const rows = [...body.rows].map(row => [row.cells[column] ? row.cells[column].textContent.trim() : '', row]);
      rows.sort(([a], [b]) => {
        if (unknown(a) || unknown(b)) return unknown(a) - unknown(b);
        const x = value(a), y = value(b);
        const order = isNaN(x) || isNaN(y) ? a.localeCompare(b) : x - y;
        return down ? -order : order;
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
  sortable += 1;
}
document.documentElement.dataset.sortable = sortable;
