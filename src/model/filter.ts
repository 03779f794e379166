/** A table of any schema, as a catalog tells it. */
export interface TableName {
  schema: string
  name: string
}

/**
 * What the tools' filters catch beyond `expected`, or fail to catch, on one side. They are POSIX expressions, and newer
 * builds pair names without regard to case: two tables that differ in case alone are merged into one without a word.
 * @param filters anchored expressions for schema and bare name, as given to the tool
 */
export function filterProblems(
  side: 'source' | 'target',
  all: readonly TableName[],
  expected: { schema: string; tables: readonly string[] },
  filters: { schema: string; table: string },
): string[] {
  const [schema, table] = [new RegExp(filters.schema), new RegExp(filters.table)]
  const wanted = new Set(expected.tables)
  const folded = new Map(expected.tables.map((name) => [name.toLowerCase(), name]))
  const problems: string[] = []
  for (const each of all) {
    const full = `${each.schema}.${each.name}`
    const ours = each.schema === expected.schema && wanted.has(each.name)
    if (schema.test(each.schema) && table.test(each.name) && !ours)
      problems.push(`the filter also catches ${full} on the ${side}, which is not an expected table`)
    const twin = folded.get(each.name.toLowerCase())
    if (!ours && twin && each.schema.toLowerCase() === expected.schema.toLowerCase())
      problems.push(
        `${full} on the ${side} differs from the expected table ${twin} in case alone, and MOLT would merge the two; rename one, or leave it out of the schema`,
      )
  }
  for (const name of expected.tables)
    if (!schema.test(expected.schema) || !table.test(name)) problems.push(`the filter does not catch ${name}`)
  return [...new Set(problems)]
}
