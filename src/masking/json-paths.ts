import { literal } from '../runtime/database.ts'
import { UserError } from '../runtime/errors.ts'
import type { LeafRule } from './rules.ts'

/** A JSON rule's paths as a tree. A node has a rule, members by name, or one node for all elements of an array. */
export interface JsonNode {
  rule?: LeafRule
  members?: Map<string, JsonNode>
  each?: JsonNode
}

/** @throws UserError when a path is listed twice, or continues below a path with a rule */
export function jsonTree(paths: Record<string, LeafRule>): JsonNode {
  const root: JsonNode = {}
  for (const [path, rule] of Object.entries(paths)) {
    let node = root
    for (const step of path.match(/\[\]|[^.[\]]+/g) ?? []) {
      if (step === '[]') {
        node.each ??= {}
        node = node.each
      } else {
        node.members ??= new Map()
        if (!node.members.has(step)) node.members.set(step, {})
        node = node.members.get(step) as JsonNode
      }
    }
    if (node.rule) throw new UserError('mask.rules-misfit', `the JSON path ${path} is listed twice`)
    node.rule = rule
  }
  requireClear(root, '')
  return root
}

function requireClear(node: JsonNode, path: string): void {
  if ([node.rule, node.members, node.each].filter(Boolean).length > 1)
    throw new UserError(
      'mask.rules-misfit',
      `the JSON path ${path || '[]'} has its own rule and others below it, or lists both members and elements. Keep one of the two`,
    )
  for (const [name, child] of node.members ?? []) requireClear(child, path ? `${path}.${name}` : name)
  if (node.each) requireClear(node.each, `${path}[]`)
}

/** SQL condition that holds if a document contains a value that no path lists. */
export function jsonUnlisted(value: string, node: JsonNode): string {
  if (node.rule) return 'false'
  if (node.each) {
    const inner = jsonUnlisted('x.e', node.each)
    return `CASE jsonb_typeof(${value}) WHEN 'array' THEN EXISTS (SELECT FROM jsonb_array_elements(${value}) x(e) WHERE ${inner}) WHEN 'null' THEN false ELSE ${value} IS NOT NULL END`
  }
  const members = [...(node.members as Map<string, JsonNode>)]
  const below = members
    .filter(([, child]) => !child.rule)
    .map(([name, child]) => ` OR ${jsonUnlisted(`(${value} -> ${literal(name)})`, child)}`)
  const rest = `${value} - ${textArray(members.map(([name]) => name))} <> '{}'`
  return `CASE jsonb_typeof(${value}) WHEN 'object' THEN ${rest}${below.join('')} WHEN 'null' THEN false ELSE ${value} IS NOT NULL END`
}

/**
 * One-column SELECTs of the texts at the wanted paths of a JSON rule.
 * @param lists FROM items for the arrays along the path
 */
export function jsonTexts(
  value: string,
  node: JsonNode,
  wanted: (rule: LeafRule) => boolean,
  lists: readonly string[] = [],
): string[] {
  if (node.rule)
    return wanted(node.rule) ? [`SELECT ${value} #>> '{}'${lists.length ? ` FROM ${lists.join(', ')}` : ''}`] : []
  if (node.each) {
    const name = `x${lists.length}`
    const list = `jsonb_array_elements(CASE jsonb_typeof(${value}) WHEN 'array' THEN ${value} END) ${name}(e)`
    return jsonTexts(`${name}.e`, node.each, wanted, [...lists, list])
  }
  return [...(node.members as Map<string, JsonNode>)].flatMap(([name, child]) =>
    jsonTexts(`(${value} -> ${literal(name)})`, child, wanted, lists),
  )
}

/**
 * SELECTs of every text and number of a document. A `json` that jsonb cannot represent counts as one text.
 * @param from first level: 1 excludes the document itself
 */
export function jsonLeaves(value: string, type: string, from = 0): string[] {
  const document = type === 'jsonb' ? value : readable(value)
  const leaves = `SELECT e #>> '{}' FROM jsonb_path_query(${document}, 'strict $.**{${from} to last} ? (@.type() == "string" || @.type() == "number")') e`
  return type === 'jsonb' ? [leaves] : [leaves, `SELECT ${value}::text WHERE ${document} IS NULL`]
}

/** SQL that converts a `json` to jsonb, or to NULL if it has escapes that jsonb may reject: U+0000 and surrogates. */
export function readable(value: string): string {
  return `CASE WHEN ${value}::text !~* '\\\\u(0000|d[89a-f])' THEN ${value}::jsonb END`
}

function textArray(items: readonly string[]): string {
  return `ARRAY[${items.map(literal).join(', ')}]::text[]`
}
