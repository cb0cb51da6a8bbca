"""Scores under a budget: which share one, and how they come under it."""

from keras_gumbel._budgets._group import LAST_STEP as LAST_STEP
from keras_gumbel._budgets._group import LOST as LOST
from keras_gumbel._budgets._group import NEVER as NEVER
from keras_gumbel._budgets._group import WHOLE as WHOLE
from keras_gumbel._budgets._group import BudgetGroup as BudgetGroup
from keras_gumbel._budgets._group import floor_of as floor_of
from keras_gumbel._budgets._grouping import budget_groups as budget_groups
from keras_gumbel._budgets._grouping import group_of as group_of
from keras_gumbel._budgets._grouping import keys_of as keys_of
from keras_gumbel._budgets._grouping import limits_of as limits_of
from keras_gumbel._budgets._grouping import require_limits as require_limits
