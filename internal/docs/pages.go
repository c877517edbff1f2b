package docs

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// What the pages need of the two documents.
type (
	infoDoc struct {
		Info struct {
			Title       string
			Version     string
			Description string
			Tags        []tagDoc
		}
	}
	tagDoc struct{ Name, Description string }

	asyncDoc struct {
		infoDoc
		Channels   map[string]channelDoc
		Operations map[string]struct {
			Action  string
			Summary string
			Channel refDoc
		}
		Components struct {
			Messages      map[string]messageDoc
			Schemas       map[string]schemaDoc
			MessageTraits map[string]struct{ Headers schemaDoc }
		}
	}
	channelDoc struct {
		Description string
		Tags        []tagDoc
	}
	messageDoc struct {
		Payload schemaDoc
		Tags    []tagDoc
	}
	refDoc struct {
		Ref string `json:"$ref"`
	}
	schemaDoc struct {
		refDoc
		Type                 any // a name, or a list of names
		Format               string
		Description          string
		Const                any
		Items                *schemaDoc
		AdditionalProperties any
		Properties           map[string]schemaDoc
		Required             []string
	}
)

// The page of messages.
type (
	messagesPage struct {
		Title, Version, Description string
		Modules                     []modulePage
		Headers                     []fieldRow
	}
	modulePage struct {
		Name, Description string
		Messages          []messagePage
	}
	messagePage struct {
		Name, Kind string
		Ends       []string // who sends and receives it
		Fields     []fieldRow
		Reply      []fieldRow
	}
	fieldRow struct {
		Path, Type, Description string
		Optional                bool
	}
)

// readMessages makes the page of an AsyncAPI document that AsyncAPI wrote.
func readMessages(asyncapi []byte) (messagesPage, error) {
	var doc asyncDoc
	if err := json.Unmarshal(asyncapi, &doc); err != nil {
		return messagesPage{}, fmt.Errorf("read the AsyncAPI document: %w", err)
	}
	page := messagesPage{
		Title: doc.Info.Title, Version: doc.Info.Version, Description: doc.Info.Description,
		Headers: doc.rows(doc.Components.MessageTraits["envelope"].Headers),
	}
	for _, tag := range doc.Info.Tags {
		m := modulePage{Name: tag.Name, Description: tag.Description}
		for name, channel := range doc.Channels {
			if len(channel.Tags) == 0 || channel.Tags[0].Name != tag.Name || strings.HasSuffix(name, ".reply") {
				continue
			}
			msg := doc.Components.Messages[name]
			p := messagePage{Name: name, Fields: doc.rows(msg.Payload), Ends: doc.ends(name)}
			if len(msg.Tags) > 0 {
				p.Kind = msg.Tags[0].Name
			}
			if reply, ok := doc.Components.Messages[replyName(name)]; ok {
				p.Reply = doc.rows(reply.Payload)
			}
			m.Messages = append(m.Messages, p)
		}
		slices.SortFunc(m.Messages, func(a, b messagePage) int {
			return strings.Compare(a.Kind+" "+a.Name, b.Kind+" "+b.Name)
		})
		page.Modules = append(page.Modules, m)
	}
	return page, nil
}

// ends are the sentences about a channel: senders first.
func (d asyncDoc) ends(channel string) []string {
	sentences := map[string][]string{}
	for _, op := range d.Operations {
		if op.Channel.Ref == "#/channels/"+channel {
			sentences[op.Action] = append(sentences[op.Action], op.Summary)
		}
	}
	var lines []string
	for _, action := range []string{"send", "receive"} {
		list := sentences[action]
		slices.Sort(list)
		if list = slices.Compact(list); len(list) > 0 {
			lines = append(lines, strings.Join(list, "; "))
		}
	}
	return lines
}

// rows flattens a schema: a row per property, its path as in lines[].sku.
func (d asyncDoc) rows(s schemaDoc) []fieldRow {
	var list []fieldRow
	d.walk(s, "", &list, nil)
	return list
}

func (d asyncDoc) walk(s schemaDoc, path string, list *[]fieldRow, above []string) {
	if name, ok := strings.CutPrefix(s.Ref, schemaPrefix); ok {
		if slices.Contains(above, name) {
			return // a tree: its fields stand further up
		}
		above = append(above[:len(above):len(above)], name)
		s = d.Components.Schemas[name]
	}
	if s.Items != nil {
		d.walk(*s.Items, path+"[]", list, above)
		return
	}
	names := make([]string, 0, len(s.Properties))
	for name := range s.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		p := s.Properties[name]
		if name == "$schema" {
			continue
		}
		inner := name
		if path != "" {
			inner = path + "." + name
		}
		*list = append(*list, fieldRow{Path: inner, Type: d.typeName(p), Description: p.describe(), Optional: !slices.Contains(s.Required, name)})
		d.walk(p, inner, list, above)
	}
}

func (d asyncDoc) typeName(s schemaDoc) string {
	if name, ok := strings.CutPrefix(s.Ref, schemaPrefix); ok {
		return name
	}
	name := fmt.Sprint(s.Type)
	if list, ok := s.Type.([]any); ok {
		var kept []string
		for _, t := range list {
			if t != "null" {
				kept = append(kept, fmt.Sprint(t))
			}
		}
		name = strings.Join(kept, " or ")
	}
	switch {
	case s.Items != nil:
		return "list of " + d.typeName(*s.Items)
	case s.Format != "":
		return name + " (" + s.Format + ")"
	}
	return name
}

func (s schemaDoc) describe() string {
	if s.Const != nil {
		return strings.TrimSpace(fmt.Sprintf("%s Always %v.", s.Description, s.Const))
	}
	return s.Description
}
