import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

/*
 * uPlot as text, to inline in a page. The build replaces this module with the texts; see scripts/build.ts.
 */

function read(file: string): string {
  return readFileSync(createRequire(import.meta.url).resolve(`uplot/dist/${file}`), 'utf8')
}

export const script = read('uPlot.iife.min.js')
export const style = read('uPlot.min.css')
