"""The twelve methods that one paper compares."""

#: The methods of "Mix Data or Merge Models?" (arXiv 2502.06876): what the output of each is called, the method here,
#: and what the paper calls it.
TWELVE = {
    "weight_average": ("linear", "Weight Average"),
    "rewarded_soup": ("linear", "Rewarded Soup"),
    "model_stock": ("model_stock", "Model Stock"),
    "task_arithmetic": ("task_arithmetic", "Task Arithmetic"),
    "ties": ("ties", "TIES"),
    "dare_linear": ("dare_linear", "DARE"),
    "dare_ties": ("dare_ties", "DARE-TIES"),
    "della_linear": ("della_linear", "DELLA"),
    "della": ("della", "DELLA-TIES"),
    "breadcrumbs": ("breadcrumbs", "Breadcrumbs"),
    "breadcrumbs_ties": ("breadcrumbs_ties", "Breadcrumbs-TIES"),
    "tsvm": ("tsvm", "TSVM"),
}
