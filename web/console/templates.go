package console

import (
	"slices"

	"hallmark/api/adminapi"
)

// kinds says what the kinds of templates are for.
var kinds = map[string]string{
	"first-boot": "a device's first boot with its birth certificate",
	"fleet":      "devices with a claim certificate, and trusted users",
	"jitp":       "unknown certificates of a registered CA, at their first connection",
	"bulk":       "devices from a file",
}

// templateRow is a template and whom it serves.
type templateRow struct {
	adminapi.Template
	For   string
	Fleet *adminapi.FleetTemplate     // of the kind fleet, once it was set up
	Rules []adminapi.RegistrationRule // of authorities and registered CAs
}

// templateUses joins templates with what uses them, as far as the reader may know.
func (c *console) templateUses(v *view, items []adminapi.Template) ([]templateRow, error) {
	fleet, err := c.Backend.Registration.FleetTemplates(v.r.Context(), v.scope)
	if err != nil {
		return nil, err
	}
	var rules []adminapi.RegistrationRule
	if v.sees().Rules {
		if rules, err = c.Backend.Registry.Registrations(v.r.Context(), v.scope); err != nil {
			return nil, err
		}
	}
	out := make([]templateRow, len(items))
	for i, t := range items {
		out[i] = templateRow{Template: t, For: kinds[t.Kind]}
		if k := slices.IndexFunc(fleet, func(f adminapi.FleetTemplate) bool { return f.Name == t.Name }); k >= 0 {
			out[i].Fleet = &fleet[k]
		}
		for _, r := range rules {
			if r.Template == t.Name {
				out[i].Rules = append(out[i].Rules, r)
			}
		}
	}
	return out, nil
}

func (c *console) templates(v *view) (string, error) {
	v.Title = "Provisioning templates"
	items, err := c.Backend.Registry.Templates(v.r.Context(), v.scope)
	if err != nil {
		return "", err
	}
	rows, err := c.templateUses(v, items)
	v.Data = map[string]any{"Items": rows, "See": v.sees()}
	return "templates", err
}

func (c *console) template(v *view) (string, error) {
	t, err := c.Backend.Registry.Template(v.r.Context(), v.scope, v.r.PathValue("template"))
	if err != nil {
		return "", err
	}
	v.Title = "Template " + t.Name
	rows, err := c.templateUses(v, []adminapi.Template{t})
	if err != nil {
		return "", err
	}
	v.Data = map[string]any{"Template": rows[0], "See": v.sees()}
	return "template", nil
}

// hookRow is a hook and what asks it.
type hookRow struct {
	adminapi.Hook
	Users []string // names of templates
}

func (c *console) hooks(v *view) (string, error) {
	v.Title = "Hooks"
	ctx := v.r.Context()
	items, err := c.Backend.Registry.Hooks(ctx, v.scope)
	if err != nil {
		return "", err
	}
	see := v.sees()
	users := map[string][]string{}
	if see.Templates {
		fleet, err := c.Backend.Registration.FleetTemplates(ctx, v.scope)
		if err != nil {
			return "", err
		}
		for _, f := range fleet {
			users[f.Hook] = append(users[f.Hook], f.Name)
		}
	}
	if see.Rules && see.Templates {
		rules, err := c.Backend.Registry.Registrations(ctx, v.scope)
		if err != nil {
			return "", err
		}
		for _, r := range rules {
			users[r.Hook] = append(users[r.Hook], r.Template)
		}
	}
	rows := make([]hookRow, len(items))
	for i, h := range items {
		h.Secret = "" // a page shows no secret, even one that the backend should not have given
		names := users[h.Name]
		slices.Sort(names)
		rows[i] = hookRow{h, slices.Compact(names)}
	}
	v.Data = map[string]any{"Items": rows, "See": see}
	return "hooks", nil
}
