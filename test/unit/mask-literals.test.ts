import { describe, expect, it } from 'vitest'
import { literalsOf, partsOf } from '../../src/masking/literals.ts'

describe('literals in SQL', () => {
  it.each([
    ['quotes', `DEFAULT 'O''Brien' || 'b'`, ["O'Brien", 'b']],
    ['an apostrophe in a comment, and the text after it', `a -- don't\n, 'Anna' /* it's */, 'Bob'`, ['Anna', 'Bob']],
    ['an apostrophe in a name', `"it's" text DEFAULT 'Anna'`, ["it's", 'Anna']],
    ['escapes', String.raw`E'it\'s \u00eb\n\x41\101' || e'a''b'`, ["it's ë\nAA", "a'b"]],
    ['Unicode escapes', String.raw`U&'d\0061t\+000061' || 'x'`, ['data', 'x']],
    ['dollar quotes', `AS $f$SELECT $$don't$$, 'Anna'$f$; DEFAULT 'Bob'`, ["don't", 'Anna', 'Bob']],
    ['an identifier with dollar signs', `a$b$c || 'Anna' || d$b$e`, ['Anna']],
    ['a quoted function body', `AS 'SELECT ''Anna'', ''it''''s'''`, ['Anna', "it's"]],
    ['comments', `-- ask Anna\n/* and Bob */`, ['ask Anna', 'and Bob']],
    ['long numbers', 'CHECK (n <> 4111111111111111 AND n > 12)', ['4111111111111111']],
    ['a name that looks like a value', 'CREATE TABLE "Anna Peeters" ("id" int)', ['Anna Peeters']],
  ])('%s', (_, sql, texts) => {
    expect(literalsOf([sql])).toEqual(expect.arrayContaining(texts))
  })

  it('leaves out ordinary identifiers and short numbers', () => {
    expect(literalsOf(['CREATE TABLE "public"."OrderNotes" (id integer DEFAULT 12)'])).toEqual([])
  })

  it('are split into the parts that can be values', () => {
    const parts = partsOf(['{"Anna Peeters",bob}', 'for Anna-Lena Peeters, Main Street 7.', 'n <> +32470123456'])
    expect(parts).toEqual(expect.arrayContaining(['Anna Peeters', 'bob', 'Anna-Lena Peeters', 'Main Street 7']))
    expect(parts).toContain('+32470123456')
    expect(parts).not.toContain('Street')
    expect(partsOf(['a '.repeat(50_000)]).length).toBeLessThan(20)
  })
})
