import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

/*
 * The source of uPlot, to be inlined in a page. `scripts/build.ts` replaces this module with the file contents.
 */

function read(file: string): string {
  return readFileSync(createRequire(import.meta.url).resolve(`uplot/dist/${file}`), 'utf8')
}

export const script = read('uPlot.iife.min.js')
export const style = read('uPlot.min.css')
