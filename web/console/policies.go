package console

import (
	"strconv"

	"hallmark/web"
)

func (c *console) policies(v *view) (string, error) {
	v.Title = "Policies"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	items, next, err := c.Backend.Policies.Policies(v.r.Context(), v.scope, p)
	v.Data = map[string]any{"Items": items, "Next": c.nextLink(v, next)}
	return "policies", err
}

// policyPage shows one version of a policy, the default one if none is named.
func (c *console) policyPage(v *view) (string, error) {
	ctx := v.r.Context()
	policy, err := c.Backend.Policies.Policy(ctx, v.scope, v.r.PathValue("policy"))
	if err != nil {
		return "", err
	}
	v.Title = "Policy " + policy.Name
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	number := policy.DefaultVersion
	if text := v.r.URL.Query().Get("version"); text != "" {
		if number, err = strconv.Atoi(text); err != nil || number < 1 {
			return "", web.ErrInput.New("The version is no number.")
		}
	}
	shown, err := c.Backend.Policies.PolicyVersion(ctx, v.scope, policy.Name, number)
	if err != nil {
		return "", err
	}
	targets, next, err := c.Backend.Policies.PolicyTargets(ctx, v.scope, policy.Name, p)
	v.Data = map[string]any{"Policy": policy, "Shown": shown, "Targets": targets, "Next": c.nextLink(v, next), "See": v.sees()}
	return "policy", err
}
