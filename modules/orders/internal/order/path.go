package order

import "fmt"

func linePath(n int, field string) string { return fmt.Sprintf("body.lines[%d].%s", n, field) }

// linesPath names the first of lines that became l.
func linesPath(lines []Line, l Line) string {
	for n, x := range lines {
		if x.SKU == l.SKU && x.Price == l.Price {
			return linePath(n, "quantity")
		}
	}
	return "body.lines"
}
