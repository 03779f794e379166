// Command grammar asks CockroachDB's own grammar about SQL. It reads one script per line of standard input, as a JSON
// string, and answers each with a line: {"statements": [...]} as CockroachDB prints them, or {"error": "..."}.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"github.com/cockroachdb/cockroachdb-parser/pkg/sql/parser"
)

type answer struct {
	Statements []string `json:"statements,omitempty"`
	Error      string   `json:"error,omitempty"`
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<20), 1<<26)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		var script string
		if err := json.Unmarshal(in.Bytes(), &script); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		if err := out.Encode(parse(script)); err != nil {
			os.Exit(2)
		}
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func parse(script string) answer {
	parsed, err := parser.Parse(script)
	if err != nil {
		return answer{Error: err.Error()}
	}
	statements := []string{}
	for _, each := range parsed {
		statements = append(statements, each.AST.String())
	}
	return answer{Statements: statements}
}
