export interface TableName {
  schema: string
  name: string
}

/**
 * Lists the ways in which the tools' filters do not match exactly the expected tables on one side. The tools read
 * filters as POSIX expressions. Newer builds ignore case, and silently merge two tables whose names differ only in
 * case.
 * @param filters anchored expressions for the schema and the unqualified table name, as passed to the tool
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
      problems.push(`the filter also matches ${full} on the ${side}, which is not an expected table`)
    const twin = folded.get(each.name.toLowerCase())
    if (!ours && twin && each.schema.toLowerCase() === expected.schema.toLowerCase())
      problems.push(
        `${full} on the ${side} differs from the expected table ${twin} only in case, so MOLT would merge them. Rename one, or move it out of the schema`,
      )
  }
  for (const name of expected.tables)
    if (!schema.test(expected.schema) || !table.test(name)) problems.push(`the filter does not match ${name}`)
  return [...new Set(problems)]
}
