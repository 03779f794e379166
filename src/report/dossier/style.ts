/** Styles for light, dark and print, from phone width up. */
export const STYLE = `
:root { --page: #fff; --ink: #1f2328; --dim: #59636e; --line: #d0d7de; --soft: #f6f8fa; --bar: #0969da; --good: #1a7f37; --warn: #9a6700; --bad: #cf222e }
@media (prefers-color-scheme: dark) {
  :root { color-scheme: dark; --page: #0d1117; --ink: #f0f6fc; --dim: #9198a1; --line: #3d444d; --soft: #151b23; --bar: #58a6ff; --good: #3fb950; --warn: #d29922; --bad: #f85149 }
}
@media print {
  :root { color-scheme: light; --page: #fff; --ink: #000; --dim: #444; --line: #bbb; --soft: #f4f4f4; --bar: #0969da; --good: #1a7f37; --warn: #9a6700; --bad: #cf222e }
}
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; background: var(--page); color: var(--ink); overflow-wrap: anywhere }
main { max-width: 64rem; margin: 0 auto; padding: 1rem }
h1 { margin: .5rem 0 0; font-size: 1.7rem; line-height: 1.25 } h2 { margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); font-size: 1.25rem } h3 { margin: 1.2rem 0 .4rem; font-size: 1rem }
.good { color: var(--good) } .warn { color: var(--warn) } .bad { color: var(--bad) }
.note { border-left: 4px solid var(--line); background: var(--soft); padding: .5rem .9rem; margin: .8rem 0 } .note.good { border-color: var(--good); color: inherit } .note.warn { border-color: var(--warn); color: inherit } .note.bad { border-color: var(--bad); color: inherit }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 0 1.5rem; margin: 1rem 0 } dl div { border-top: 1px solid var(--line); padding: .45rem 0 }
dt { font-size: .85rem; color: var(--dim) } dd { margin: 0; font-weight: 600 } dd small { font-weight: 400 }
nav { font-size: .95rem; display: flex; flex-wrap: wrap; gap: .2rem .9rem } a { color: var(--bar) }
code, pre { font: .9em ui-monospace, monospace; background: var(--soft); border-radius: 4px } code { padding: .1rem .25rem } pre { padding: .6rem .8rem; white-space: pre-wrap }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .95rem } th, td { text-align: left; vertical-align: top; padding: .3rem .5rem; border-bottom: 1px solid var(--line); overflow-wrap: break-word } th { color: var(--dim); font-weight: 600; font-size: .85rem } .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap } td.t, .t { white-space: nowrap }
.bars { display: grid; gap: .3rem } .bar { display: grid; grid-template-columns: minmax(7rem, 14rem) 1fr 6.5rem; gap: .6rem; align-items: center } .bar b { text-align: right; font-weight: 600; font-variant-numeric: tabular-nums } .track { background: var(--soft); border: 1px solid var(--line); height: 1rem } .track i { display: block; height: 100%; min-width: 2px; background: var(--bar); print-color-adjust: exact }
figure { margin: 1.2rem 0 } figcaption { font-weight: 600 } figcaption small { font-weight: 400; color: var(--dim) } .chart { width: 100% } .marks { margin: .3rem 0; padding-left: 1.4rem; color: var(--dim); font-size: .9rem; columns: 2 14rem }
details { margin: .6rem 0 } summary { cursor: pointer } footer { margin: 2.5rem 0 1rem; color: var(--dim); font-size: .9rem; border-top: 1px solid var(--line); padding-top: .6rem }
.uplot { font-family: inherit }
@media (max-width: 600px) { main { padding: .7rem } .bar { grid-template-columns: 1fr auto; gap: .1rem .6rem } .bar .track { grid-column: 1 / -1; grid-row: 2 } dl { display: block } dl div { display: grid; grid-template-columns: 9rem 1fr; gap: .6rem } table.steps thead { display: none } table.steps, table.steps tbody, table.steps tr, table.steps td { display: block } table.steps tr { border-bottom: 1px solid var(--line); padding: .35rem 0 } table.steps td { border: 0; padding: 0 .2rem } table.steps td:nth-child(2) { font-weight: 600 } table:not(.steps) { font-size: .8rem } th { font-size: .72rem } th, td { padding: .3rem .2rem } }
@media print { @page { margin: 14mm } body { font-size: 11pt } main { max-width: none; padding: 0 } nav { display: none } figure, .bar, tr, dl div { break-inside: avoid } h2 { break-after: avoid } details:not([open])::details-content { content-visibility: visible; block-size: auto } a { color: inherit } }
`
