/** Pairs of definitions as PostgreSQL 16 and CockroachDB print them: some are equal, and some differ. */
import { describe, expect, it } from 'vitest'
import { expressionForm, readIndex } from '../../src/model/expression.ts'
import {
  asDecided,
  type Decision,
  pinDecisions,
  type Structure,
  structureProblems,
  typeForm,
} from '../../src/model/structure.ts'

describe('an expression', () => {
  it.each([
    ["(lower((email)::text) = ANY (ARRAY['a'::text, 'b'::text]))", "lower(email) IN ('a':::STRING, 'b':::STRING)"],
    ["((state)::text <> ALL (ARRAY['x'::text]))", "state NOT IN ('x':::STRING,)"],
    ['((total >= (0)::numeric) AND (total <= (100)::numeric))', 'total BETWEEN 0:::DECIMAL AND 100:::DECIMAL'],
    ['(((a > 1) AND (b > 1)) AND (c > 1))', '((a > 1:::INT8) AND (b > 1:::INT8)) AND (c > 1:::INT8)'],
    ["((code)::text ~~ 'a%'::text)", "code LIKE 'a%':::STRING"],
    ["((code)::text !~~* 'a%'::text)", "code NOT ILIKE 'a%':::STRING"],
    ['CURRENT_TIMESTAMP', 'current_timestamp():::TIMESTAMPTZ'],
    ['now()', 'now():::TIMESTAMPTZ'],
    ['(created_at)::date', 'created_at::DATE'],
    ['EXTRACT(year FROM at)', "extract('year':::STRING, at)"],
    ["(at AT TIME ZONE 'UTC'::text)", "timezone('UTC':::STRING, at)"],
    ["(c > '-1'::integer)", 'c > (-1):::INT8'],
    ["CASE WHEN (a > 1) THEN 'x'::text ELSE NULL::text END", "CASE WHEN a > 1:::INT8 THEN 'x':::STRING ELSE NULL END"],
    ["'open'::order_status", "'open':::public.order_status"],
    ["'it''s'::text", "e'it\\'s':::STRING"],
    ["(path <> '\\'::text)", "path != e'\\\\':::STRING"],
    ["'{}'::text[]", 'ARRAY[]:::STRING[]'],
    ["ARRAY['a'::text]", "ARRAY['a':::STRING]"],
    ["((data ->> 'kind'::text) IS NOT NULL)", "(data->>'kind':::STRING) IS NOT NULL"],
    ['(NOT archived)', 'NOT archived'],
    ['(("Group" IS NULL) OR ("end" >= start))', '("Group" IS NULL) OR ("end" >= start)'],
    ['(a IS DISTINCT FROM b)', 'a IS DISTINCT FROM b'],
    ["(at > '2020-01-01 00:00:00'::timestamp without time zone)", "at > '2020-01-01 00:00:00':::TIMESTAMP"],
    ['((x)::timestamp(3) with time zone = y)', 'x::TIMESTAMPTZ(3) = y'],
    ['public.gen_random_uuid()', 'gen_random_uuid()'],
  ])('%s is %s', (source, target) => {
    expect(expressionForm(source)).toBeDefined()
    expect(expressionForm(target)).toBe(expressionForm(source))
  })

  it.each([
    ['(n > 0)', 'n >= 0:::INT8'],
    ['((a OR b) AND c)', 'a OR (b AND c)'],
    ['(a - (b - c))', '(a - b) - c'],
    ["(state = 'open'::text)", "state = 'Open':::STRING"],
    ['lower((email)::text)', 'upper(email)'],
    ['(n = ANY (ARRAY[1, 2]))', 'n IN (1:::INT8, 3:::INT8)'],
    ['(NOT archived)', 'archived'],
    ['(at)::date', 'at'],
    ['(amount < (10)::numeric)', 'amount < 100:::DECIMAL'],
    ['("Group" IS NULL)', '"group" IS NULL'],
    ['(a IS NULL)', 'a IS NOT NULL'],
    ["(note ~~ 'a b'::text)", "note LIKE 'ab':::STRING"],
  ])('%s is not %s', (source, target) => {
    expect(expressionForm(source)).toBeDefined()
    expect(expressionForm(target)).toBeDefined()
    expect(expressionForm(target)).not.toBe(expressionForm(source))
  })

  it.each(['', 'a b', '(a', 'a = ', 'CHECK ((a)) NOT VALID'])('rejects "%s"', (text) => {
    expect(expressionForm(text)).toBeUndefined()
  })
})

describe('an index', () => {
  const pg = (rest: string) => readIndex(`CREATE INDEX i ON public.t USING btree ${rest}`)?.form
  const crdb = (rest: string) => readIndex(`CREATE INDEX i ON shop.public.t USING btree ${rest}`)?.form
  it.each([
    ['(a, b DESC)', '(a ASC, b DESC)'],
    ['(a DESC NULLS LAST)', '(a DESC)'],
    ['(lower(email)) WHERE (deleted_at IS NULL)', '(lower(email) ASC) WHERE deleted_at IS NULL'],
    ["(name) INCLUDE (price) WHERE (state = 'open'::text)", "(name ASC) STORING (price) WHERE state = 'open':::STRING"],
    ['(name text_pattern_ops)', '(name ASC)'],
    ['(name COLLATE "C" varchar_pattern_ops)', '(name ASC)'],
    ['(a)', '(a ASC) USING HASH WITH (bucket_count=16)'],
  ])('%s is %s', (source, target) => {
    expect(pg(source)).toBeDefined()
    expect(crdb(target)).toBe(pg(source))
  })
  it.each([
    ['(a)', '(a DESC)'],
    ['(a)', '(a ASC) WHERE b IS NULL'],
    ['(a) WHERE (b > 1)', '(a ASC) WHERE b > 2:::INT8'],
    ['(a) NULLS NOT DISTINCT', '(a ASC)'],
    ['(a) INCLUDE (b)', '(a ASC)'],
    ['(lower(a))', '(upper(a) ASC)'],
  ])('%s is not %s', (source, target) => {
    expect(pg(source)).toBeDefined()
    expect(crdb(target)).toBeDefined()
    expect(crdb(target)).not.toBe(pg(source))
  })
  it('has a different form if it is inverted', () => {
    const gin = readIndex('CREATE INDEX i ON t USING gin (tags)')?.form
    expect(gin).toBe(readIndex('CREATE INVERTED INDEX i ON d.s.t USING gin (tags ASC)')?.form)
    expect(gin).not.toBe(crdb('(tags)'))
  })
})

describe('definitions', () => {
  const index = { table: 't', name: 'a', unique: false, valid: true, columns: ['x'], form: '(index "x")', text: '' }
  const of = (part: Partial<Structure>): Structure => ({ indexes: [], constraints: [], columnParts: [], ...part })
  const kinds = (source: Partial<Structure>, target: Partial<Structure>, tables = ['t']) =>
    structureProblems(of(source), of(target), tables, 'public').map(({ kind }) => kind)

  it('must exist twice on the target if they exist twice on the source, whatever their names', () => {
    const twice = [index, { ...index, name: 'b' }]
    expect(kinds({ indexes: twice }, { indexes: [{ ...index, name: 'c' }] })).toEqual(['missing'])
    expect(kinds({ indexes: twice }, { indexes: twice })).toEqual([])
  })
  it('are problems if they are invalid or differ', () => {
    expect(kinds({ indexes: [index] }, { indexes: [{ ...index, valid: false }] })).toEqual(['invalid'])
    expect(kinds({ indexes: [index] }, { indexes: [{ ...index, form: '(index "x" where "y")' }] })).toEqual([
      'different',
    ])
  })
  it('are matched by their form before their name', () => {
    const partial = { ...index, name: 'b', form: '(index "x" where "y")' }
    expect(kinds({ indexes: [index, partial] }, { indexes: [partial, index] })).toEqual([])
  })
  it('do not count if they belong to another table', () => {
    expect(kinds({ indexes: [index] }, {}, ['other'])).toEqual([])
  })
  it('include constraints and column properties', () => {
    const check = {
      table: 't',
      name: 'c',
      kind: 'check' as const,
      validated: true,
      columns: ['x'],
      references: null,
      form: '(> "x" 0)',
      text: '',
    }
    expect(kinds({ constraints: [check] }, { constraints: [{ ...check, form: '(> "x" 1)' }] })).toEqual(['different'])
    expect(kinds({ constraints: [check] }, { constraints: [{ ...check, validated: false }] })).toEqual(['invalid'])
    const value = { table: 't', column: 'x', part: 'default' as const, form: '0', text: '0' }
    expect(kinds({ columnParts: [value] }, { columnParts: [{ ...value, form: '1' }] })).toEqual(['different'])
    expect(kinds({ columnParts: [value] }, {})).toEqual(['missing'])
  })
})

describe('decisions in convert.yml', () => {
  const index = (name: string, part: object = {}) => ({
    table: 't',
    name,
    unique: false,
    valid: true,
    columns: ['x'],
    form: '(index "x")',
    text: 'CREATE INDEX',
    ...part,
  })
  const of = (part: Partial<Structure>): Structure => ({ indexes: [], constraints: [], columnParts: [], ...part })
  const drop = (name: string): Decision => ({ of: 'index', table: 't', name, target: null })
  const storing: Decision = {
    of: 'index',
    table: 't',
    name: 'a',
    target: { name: 'b', form: '(index "x" storing "y")', text: 'CREATE INDEX b' },
  }
  /** Returns a target's problems. The decisions were made for `before`; `now` is the current source. */
  function problems(decided: Decision[], before: Structure, target: Structure, now = before) {
    const expected = asDecided(now, pinDecisions(decided, before, []))
    return structureProblems(expected, target, ['t'], 'public').map(
      ({ kind, what }) => `${kind} ${/index \w+/.exec(what)}`,
    )
  }

  it('excuse only the dropped index, not another one with the same columns', () => {
    const source = of({ indexes: [index('a'), index('b')] })
    expect(problems([drop('a')], source, of({ indexes: [index('b')] }))).toEqual([])
    expect(problems([drop('a')], source, of({}))).toEqual(['missing index b'])
    expect(problems([drop('a'), drop('b')], source, of({}))).toEqual([])
  })
  it('no longer apply once the definition on the source has changed', () => {
    const now = of({ indexes: [index('a', { form: '(index "x" where "y")' })] })
    expect(problems([drop('a')], of({ indexes: [index('a')] }), of({}), now)).toEqual(['missing index a'])
  })
  it('require the definition that they decide on', () => {
    const source = of({ indexes: [index('a')] })
    const built = index('b', { form: '(index "x" storing "y")' })
    expect(problems([storing], source, of({ indexes: [built] }))).toEqual([])
    expect(problems([storing], source, source)).toEqual(['different index b'])
    expect(problems([storing], source, of({}))).toEqual(['missing index b'])
  })
  it('are ignored if their object does not exist on the source', () => {
    expect(pinDecisions([drop('c')], of({ indexes: [index('a')] }), [])).toEqual([])
  })
  it.each([
    ['NUMERIC(19, 4)', 'decimal(19,4)'],
    ['timestamp(3) with time zone', 'TIMESTAMPTZ(3)'],
    ['timestamp without time zone', 'TIMESTAMP'],
    ['character varying(20)[]', 'VARCHAR(20)[]'],
    ['bigint', 'INT'],
    ['text', 'STRING'],
  ])('know %s as %s', (server, written) => {
    expect(typeForm(written)).toBe(typeForm(server))
  })
})
