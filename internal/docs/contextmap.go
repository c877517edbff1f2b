package docs

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/banyan-go/banyan/internal/message"
	"github.com/banyan-go/banyan/internal/module"
)

// ContextMap draws who publishes to, sends to and asks whom, as a Mermaid flowchart. Dotted arrows are events, from
// the module that announces them to the one that listens; thick ones are commands; thin ones are queries. What the
// descriptors have wrong is left out: the start of the program says it.
func ContextMap(modules []module.Descriptor) string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	for _, m := range modules {
		fmt.Fprintf(&b, "    %s[\"<b>%s</b><br/>%s\"]\n", m.Name, m.Name, strings.ReplaceAll(wrap(m.Summary, 32), `"`, "'"))
	}
	g, _ := conversations(modules)
	for _, e := range edges(modules, g) {
		fmt.Fprintf(&b, "    %s %s|\"%s\"| %s\n", e.from, arrows()[e.kind], strings.Join(e.labels, "<br/>"), e.to)
	}
	return b.String()
}

func arrows() map[kind]string { return map[kind]string{event: "-.->", command: "==>", query: "-->"} }

type edge struct {
	from, to string
	kind     kind
	labels   []string
}

// edges puts all messages of one kind between two modules on one arrow.
func edges(modules []module.Descriptor, g graph) []edge {
	var list []edge
	for _, k := range []kind{command, query, event} {
		for _, from := range modules {
			for _, to := range modules {
				var labels []string
				for _, c := range g.calls {
					hears := k == event && c.action == "receive" && c.owner == from.Name && c.module == to.Name
					asks := k != event && c.action == "send" && c.module == from.Name && c.owner == to.Name
					if c.kind == k && (hears || asks) {
						labels = append(labels, short(c.name))
					}
				}
				if len(labels) == 0 {
					continue
				}
				slices.Sort(labels)
				list = append(list, edge{from.Name, to.Name, k, slices.Compact(labels)})
			}
		}
	}
	return list
}

// short is a wire name without its module, and without its version if that is the first.
func short(name string) string {
	s := strings.TrimPrefix(name, message.Module(name)+".")
	return strings.ReplaceAll(strings.TrimSuffix(s, ".v1"), "_", " ")
}

// wrap breaks a text into lines of about width letters.
func wrap(text string, width int) string {
	var b strings.Builder
	line := 0
	for _, word := range strings.Fields(text) {
		switch {
		case line == 0:
		case line+len(word) > width:
			b.WriteString("<br/>")
			line = 0
		default:
			b.WriteByte(' ')
		}
		b.WriteString(word)
		line += len(word) + 1
	}
	return b.String()
}

// CheckReadme says whether the README holds this context map, in a block of Mermaid.
func CheckReadme(readme []byte, contextMap string) error {
	block := "```mermaid\n" + contextMap + "```\n"
	if bytes.Contains(bytes.ReplaceAll(readme, []byte("\r\n"), []byte("\n")), []byte(block)) {
		return nil
	}
	return fmt.Errorf("the README does not hold the context map of the code; it should be\n%s", block)
}
