// Judges alert rules and queries as Prometheus does: `rules FILE... < QUERIES`, a query of PromQL a line.
//
// Files are judged by the code behind `promtool check rules`. What is wrong is a line on stderr each.
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	failed := false
	complain := func(problem any) {
		fmt.Fprintln(os.Stderr, problem)
		failed = true
	}
	for _, file := range os.Args[1:] {
		_, problems := rulefmt.ParseFile(file, false, model.UTF8Validation)
		for _, problem := range problems {
			complain(problem)
		}
	}
	queries := bufio.NewScanner(os.Stdin)
	for queries.Scan() {
		if _, err := parser.ParseExpr(queries.Text()); err != nil {
			complain(fmt.Sprintf("%s: %v", queries.Text(), err))
		}
	}
	if err := queries.Err(); err != nil {
		complain(err)
	}
	if failed {
		os.Exit(1)
	}
}
